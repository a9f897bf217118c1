package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// keyLife is how long a new key is good unless another time is given.
const keyLife = 90 * 24 * time.Hour

func newKey(server *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make, replace and list API keys",
		Long: `Make, replace and list API keys.

A key is made here and printed once, on standard output and alone. The control
plane and the proxies only ever have its digest, in a resource of kind ApiKey.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeyCreate(server), newKeyRotate(server), newKeyList(server))
	return cmd
}

// issue is what create and rotate have in common.
type issue struct {
	name    resource.Key
	life    time.Duration
	message string
	wait    time.Duration
}

func (i *issue) flags(cmd *cobra.Command, life time.Duration, otherwise string) {
	f := cmd.Flags()
	f.DurationVar(&i.life, "expires-in", life, "how long the key is good; 0 for ever"+otherwise)
	f.StringVarP(&i.message, "message", "m", "", "why (`text`), for the history")
	f.DurationVar(&i.wait, "wait", 0, "then wait until every connected proxy proves that it takes the key, for at most so long")
}

// parse reads NAMESPACE/NAME.
func (i *issue) parse(args []string) error {
	if len(args) != 1 {
		return errors.New("which key? give NAMESPACE/NAME")
	}
	namespace, name, ok := strings.Cut(args[0], "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return fmt.Errorf("%q is not NAMESPACE/NAME", args[0])
	}
	if i.life < 0 {
		return fmt.Errorf("--expires-in %s is in the past", i.life)
	}
	i.name = resource.Key{Kind: resource.KindAPIKey, Namespace: namespace, Name: name}
	return nil
}

func newKeyCreate(server *connection) *cobra.Command {
	var i issue
	var spec resourcev1.ApiKey
	cmd := &cobra.Command{
		Use:   "create NAMESPACE/NAME",
		Short: "Make an API key, and print it once",
		Example: `  sallyport key create shop/nightly-export --scope orders:read --wait 30s
  sallyport key create shop/batch --owner data-team --expires-in 720h > batch.key`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := i.parse(args); err != nil {
				return err
			}
			return i.run(cmd, server, func(now time.Time, old *resourcev1.ApiKey) (*resourcev1.ApiKey, string, error) {
				if old != nil {
					return nil, "", fmt.Errorf("%s is there already: rotate it, or give the new one another name", i.name)
				}
				return minted(&spec, now, i.life)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&spec.Owner, "owner", "", "whom it speaks for, the subject for policies; its own `name` when empty")
	f.StringSliceVar(&spec.Scopes, "scope", nil, "what it may be used for (`scopes`), for conditions of policies")
	f.StringSliceVar(&spec.Groups, "group", nil, "`groups` that it is in, for policies")
	f.StringSliceVarP(&spec.Environments, "environment", "e", nil, "where it is taken; everywhere when none")
	i.flags(cmd, keyLife, "")
	return cmd
}

func newKeyRotate(server *connection) *cobra.Command {
	var i issue
	var overlap time.Duration
	cmd := &cobra.Command{
		Use:   "rotate NAMESPACE/NAME",
		Short: "Make a further key in place of those there are, and print it once",
		Long: `Make a further key in place of those there are, and print it once. These go on
for the time of --overlap, unless they end before: so much time there is to give
the new key to its user.`,
		Example: `  sallyport key rotate shop/nightly-export --overlap 24h --wait 30s`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := i.parse(args); err != nil {
				return err
			}
			if overlap < 0 {
				return fmt.Errorf("--overlap %s is in the past", overlap)
			}
			return i.run(cmd, server, func(now time.Time, old *resourcev1.ApiKey) (*resourcev1.ApiKey, string, error) {
				if old == nil {
					return nil, "", fmt.Errorf("there is no %s: create it", i.name)
				}
				life := i.life
				if !cmd.Flags().Changed("expires-in") {
					life = lifeOf(old)
				}
				return minted(retired(old, now, overlap), now, life)
			})
		},
	}
	cmd.Flags().DurationVar(&overlap, "overlap", 24*time.Hour, "how long the keys of before are still good; 0 ends them at once")
	i.flags(cmd, 0, ", as long as the key before when not given")
	return cmd
}

// run replaces the resource by what change makes of it, and prints the key.
// That somebody else changed the fleet meanwhile is no reason to lose what they
// did, nor to bother anybody.
func (i *issue) run(cmd *cobra.Command, server *connection, change keyChange) error {
	clients, err := server.open(cmd.Context())
	if err != nil {
		return err
	}
	defer clients.close()
	const attempts = 10
	for n := 1; ; n++ {
		key, res, err := i.attempt(cmd.Context(), clients, change)
		switch {
		case connect.CodeOf(err) == connect.CodeAborted && n < attempts:
			continue
		case err != nil && problems(err) != nil:
			return refused(cmd.ErrOrStderr(), err, nil)
		case err != nil:
			return err
		}
		return i.tell(cmd, clients, key, res)
	}
}

// keyChange makes the next version of an ApiKey, nil when there is none, and
// the key that it adds.
type keyChange func(now time.Time, old *resourcev1.ApiKey) (next *resourcev1.ApiKey, key string, err error)

func (i *issue) attempt(ctx context.Context, c *clients, change keyChange) (string, *adminv1.ApplyResponse, error) {
	stored, revision, err := c.stored(ctx, i.name)
	if err != nil {
		return "", nil, err
	}
	old, err := apiKeyOf(stored)
	if err != nil {
		return "", nil, err
	}
	next, key, err := change(time.Now().UTC().Truncate(time.Second), old)
	if err != nil {
		return "", nil, err
	}
	file, err := presentKey(i.name, stored.GetMetadata().GetLabels(), next)
	if err != nil {
		return "", nil, err
	}
	res, err := c.config.Apply(ctx, connect.NewRequest(&adminv1.ApplyRequest{
		Resources: []*adminv1.Resource{file}, ExpectedRevision: &revision, Message: i.message,
	}))
	if err != nil {
		return "", nil, err
	}
	return key, res.Msg, nil
}

// stored returns a resource, nil when there is none, and the revision at which
// that is so.
func (c *clients) stored(ctx context.Context, key resource.Key) (*adminv1.Resource, int64, error) {
	listing, err := c.config.List(ctx, connect.NewRequest(&adminv1.ListRequest{
		Kind: string(key.Kind), Namespace: key.Namespace, PageSize: 1,
	}))
	if err != nil {
		return nil, 0, err
	}
	revision := listing.Msg.GetRevision()
	res, err := c.config.Get(ctx, connect.NewRequest(&adminv1.GetRequest{
		Key: &adminv1.Key{Kind: string(key.Kind), Namespace: key.Namespace, Name: key.Name}, Revision: revision,
	}))
	if connect.CodeOf(err) == connect.CodeNotFound {
		return nil, revision, nil
	}
	return res.Msg.GetResource().GetResource(), revision, err
}

// tell prints the key before anything that could fail: it is nowhere else.
func (i *issue) tell(cmd *cobra.Command, c *clients, key string, res *adminv1.ApplyResponse) error {
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), key); err != nil {
		return fmt.Errorf("the key could not be printed and is lost, rotate it: %w", err)
	}
	w := cmd.ErrOrStderr()
	if err := (&change{out: "table"}).print(w, res); err != nil {
		return err
	}
	if _, err := io.WriteString(w, "the key is shown this once\n"); err != nil || i.wait == 0 {
		return err
	}
	waiting := change{wait: i.wait} // as for a program: it does not write beside the key
	return waiting.await(cmd, c, res, res.GetEnvironments())
}
