package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// revocation is what the subcommands of revoke have in common.
type revocation struct {
	change
	name         string
	reason       string
	expiresIn    time.Duration
	issuedBefore string
}

func newRevoke(server *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke",
		Short: "Cut off credentials, everywhere and at once",
		Long: `Cut off credentials, everywhere and at once: new requests with them are denied,
and open streams are closed.

Each makes a Revocation, which get and delete know by its name. With --wait the
command ends when every connected proxy has proven that the credentials are cut
off; it names those that it could not reach.`,
		Example: `  sallyport revoke token --issuer https://login.example --id 8f14e45f --expires-in 1h --wait 10s
  sallyport revoke subject --issuer https://login.example --subject ann --issued-before now --reason "laptop stolen"
  sallyport revoke device laptop-7 --reason "left on a train"
  sallyport delete revocation subject-3jqmxa7tkz`,
	}
	cmd.AddCommand(revokeToken(server), revokeSubject(server), revokeSession(server), revokeKey(server), revokeSPIFFE(server), revokeDevice(server))
	return cmd
}

func (r *revocation) flags(cmd *cobra.Command) *cobra.Command {
	f := cmd.Flags()
	f.StringVar(&r.name, "name", "", "call the revocation by this `name`; a new one when empty")
	f.StringVar(&r.reason, "reason", "", "why (`text`), for the revocation and the audit")
	f.DurationVar(&r.expiresIn, "expires-in", 0, "when what is revoked has expired by itself; never when 0")
	f.BoolVar(&r.dryRun, "dry-run", false, "check and compare only")
	f.DurationVar(&r.wait, "wait", 0, "then wait until every connected proxy proves that it enforces this, for at most so long")
	r.out.flag(cmd)
	return cmd
}

// before adds the flag for what is valid again once it is issued anew.
func (r *revocation) before(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&r.issuedBefore, "issued-before", "", "only what was issued before this `time`, such as 2026-11-26T08:30:00Z or now; all when empty")
	return cmd
}

func revokeToken(server *connection) *cobra.Command {
	var r revocation
	var issuer, id string
	cmd := &cobra.Command{
		Use:   "token --issuer ISSUER --id JTI",
		Short: "Cut off one token, by its iss and jti",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.run(cmd, server, "token", issued(issuer, id))
		},
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "the token's iss")
	cmd.Flags().StringVar(&id, "id", "", "the token's jti")
	return r.flags(cmd)
}

func revokeSubject(server *connection) *cobra.Command {
	var r revocation
	var issuer, subject string
	cmd := &cobra.Command{
		Use:   "subject --issuer ISSUER --subject SUB",
		Short: "Cut off all tokens of a subject, by their iss and sub",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.run(cmd, server, "subject", issued(issuer, subject))
		},
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "the tokens' iss")
	cmd.Flags().StringVar(&subject, "subject", "", "the tokens' sub")
	return r.before(r.flags(cmd))
}

func revokeSession(server *connection) *cobra.Command {
	var r revocation
	var issuer, id string
	cmd := &cobra.Command{
		Use:   "session --issuer ISSUER --id SID",
		Short: "Cut off all tokens of a session, by their iss and sid",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.run(cmd, server, "session", issued(issuer, id))
		},
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "the tokens' iss")
	cmd.Flags().StringVar(&id, "id", "", "the tokens' sid")
	return r.flags(cmd)
}

func revokeKey(server *connection) *cobra.Command {
	var r revocation
	cmd := &cobra.Command{
		Use:   "key ID",
		Short: "Cut off an API key, by its identifier",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("revoke which key? give its identifier")
			}
			return r.run(cmd, server, "key", structpb.NewStringValue(args[0]))
		},
	}
	return r.flags(cmd)
}

func revokeSPIFFE(server *connection) *cobra.Command {
	var r revocation
	cmd := &cobra.Command{
		Use:   "spiffe ID",
		Short: "Cut off a workload, by its SPIFFE ID",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("revoke which workload? give its SPIFFE ID")
			}
			return r.run(cmd, server, "spiffeId", structpb.NewStringValue(args[0]))
		},
	}
	return r.before(r.flags(cmd))
}

func revokeDevice(server *connection) *cobra.Command {
	var r revocation
	cmd := &cobra.Command{
		Use:   "device NAME",
		Short: "Cut off whatever comes from a device, by the name of its Device",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("revoke which device? give the name of its Device")
			}
			return r.run(cmd, server, "device", structpb.NewStringValue(args[0]))
		},
	}
	return r.flags(cmd)
}

// issued names what an issuer says of something.
func issued(issuer, id string) *structpb.Value {
	return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
		"issuer": structpb.NewStringValue(issuer), "id": structpb.NewStringValue(id),
	}})
}

// run makes a revocation of a target.
func (r *revocation) run(cmd *cobra.Command, server *connection, target string, value *structpb.Value) error {
	made, err := r.resource(target, value, time.Now())
	if err != nil {
		return err
	}
	clients, err := server.open(cmd.Context())
	if err != nil {
		return err
	}
	defer clients.close()
	r.message = r.reason
	return r.send(cmd, clients, []*adminv1.Resource{made}, nil)
}

func (r *revocation) resource(target string, value *structpb.Value, now time.Time) (*adminv1.Resource, error) {
	spec := &structpb.Struct{Fields: map[string]*structpb.Value{target: value}}
	set := func(field, text string) {
		if text != "" {
			spec.Fields[field] = structpb.NewStringValue(text)
		}
	}
	set("reason", r.reason)
	set("issuedBefore", r.issuedBefore)
	if r.issuedBefore == "now" {
		set("issuedBefore", now.UTC().Format(time.RFC3339))
	}
	switch {
	case r.expiresIn < 0:
		return nil, fmt.Errorf("--expires-in %s is in the past", r.expiresIn)
	case r.expiresIn > 0:
		set("expiresAt", now.Add(r.expiresIn).UTC().Format(time.RFC3339))
	}
	if r.name == "" {
		// A name of its own: one that says less would take the place of another
		// that says more.
		r.name = strings.ToLower(strings.TrimSuffix(target, "Id") + "-" + rand.Text()[:10])
	}
	return &adminv1.Resource{
		ApiVersion: resource.APIVersion, Kind: string(resource.KindRevocation),
		Metadata: &adminv1.Metadata{Name: r.name}, Spec: spec,
	}, nil
}

// revocationRows shows whom each revocation cuts off.
func revocationRows(stored []*adminv1.StoredResource) [][]string {
	var rows [][]string
	for _, s := range stored {
		fields := s.GetResource().GetSpec().GetFields()
		rows = append(rows, []string{
			s.GetResource().GetMetadata().GetName(), target(fields), fields["issuedBefore"].GetStringValue(),
			fields["expiresAt"].GetStringValue(), fmt.Sprint(s.GetRevision()), fields["reason"].GetStringValue(),
		})
	}
	return rows
}

// target says in a few words whose credentials a revocation is about.
func target(fields map[string]*structpb.Value) string {
	for _, kind := range []string{"token", "subject", "session"} {
		if of := fields[kind].GetStructValue().GetFields(); of != nil {
			return kind + " " + of["id"].GetStringValue() + " of " + of["issuer"].GetStringValue()
		}
	}
	for field, word := range map[string]string{"key": "key", "spiffeId": "workload", "issuer": "issuer", "device": "device"} {
		if text := fields[field].GetStringValue(); text != "" {
			return word + " " + text
		}
	}
	return "everyone"
}
