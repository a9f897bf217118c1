package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/apikey"
	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// maxSecrets is what an ApiKey takes.
const maxSecrets = 4

// minted returns spec with a further secret, and the key that this is of.
func minted(spec *resourcev1.ApiKey, now time.Time, life time.Duration) (*resourcev1.ApiKey, string, error) {
	if len(spec.GetSecrets()) >= maxSecrets {
		return nil, "", fmt.Errorf("it has %d keys that are still good, and cannot have more: wait for one to end, or use a shorter --overlap", len(spec.GetSecrets()))
	}
	key := apikey.New()
	secret := &resourcev1.ApiKeySecret{Id: key.ID, Sha256: fmt.Sprintf("%x", apikey.Digest(key.Text)), CreatedAt: timestamppb.New(now)}
	if life > 0 {
		secret.NotAfter = timestamppb.New(now.Add(life))
	}
	next := proto.CloneOf(spec)
	next.Secrets = append(next.Secrets, secret)
	return next, key.Text, nil
}

// retired returns spec with secrets that end after overlap, without those that
// have ended.
func retired(spec *resourcev1.ApiKey, now time.Time, overlap time.Duration) *resourcev1.ApiKey {
	next := proto.CloneOf(spec)
	end := now.Add(overlap)
	next.Secrets = slices.DeleteFunc(next.Secrets, func(s *resourcev1.ApiKeySecret) bool {
		if s.GetNotAfter() == nil || s.GetNotAfter().AsTime().After(end) {
			s.NotAfter = timestamppb.New(end)
		}
		return !s.GetNotAfter().AsTime().After(now)
	})
	return next
}

// lifeOf returns for how long the youngest secret was made, 0 for ever.
func lifeOf(spec *resourcev1.ApiKey) time.Duration {
	youngest := slices.MaxFunc(spec.GetSecrets(), func(a, b *resourcev1.ApiKeySecret) int {
		return a.GetCreatedAt().AsTime().Compare(b.GetCreatedAt().AsTime())
	})
	if youngest.GetNotAfter() == nil {
		return 0
	}
	return youngest.GetNotAfter().AsTime().Sub(youngest.GetCreatedAt().AsTime())
}

// apiKeyOf reads a stored resource; nil stays nil.
func apiKeyOf(stored *adminv1.Resource) (*resourcev1.ApiKey, error) {
	if stored == nil {
		return nil, nil //nolint:nilnil // documented
	}
	parsed, problems := resource.Decode(stored)
	if problems.Total > 0 {
		return nil, errors.New("the control plane holds more than this build of the command understands: " + problems.Kept[0].String())
	}
	spec, _ := parsed.Spec.(*resourcev1.ApiKey)
	return spec, nil
}

// presentKey is an ApiKey as it is applied.
func presentKey(key resource.Key, labels map[string]string, spec *resourcev1.ApiKey) (*adminv1.Resource, error) {
	document, err := resource.Encode(resource.Parsed{Key: key, Labels: labels, Spec: spec})
	if err != nil {
		return nil, err
	}
	return resource.Present(document)
}

func newKeyList(server *connection) *cobra.Command {
	q := query{kind: resource.KindAPIKey}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show which API keys there are, and until when",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			stored, err := q.run(cmd.Context(), c)
			if err != nil {
				return err
			}
			switch {
			case q.out != "table":
				return q.print(cmd.OutOrStdout(), stored)
			case len(stored) == 0:
				_, err := fmt.Fprintln(cmd.ErrOrStderr(), "there is none")
				return err
			}
			rows, err := keyRows(stored, time.Now())
			if err != nil {
				return err
			}
			return table(cmd.OutOrStdout(), "NAMESPACE NAME ID OWNER CREATED UNTIL SCOPES GROUPS", rows)
		},
	}
	cmd.Flags().StringVarP(&q.namespace, "namespace", "n", "", "only this namespace")
	q.out.flag(cmd)
	return cmd
}

// keyRows has a row for each secret.
func keyRows(stored []*adminv1.StoredResource, now time.Time) ([][]string, error) {
	var rows [][]string
	for _, s := range stored {
		spec, err := apiKeyOf(s.GetResource())
		if err != nil {
			return nil, err
		}
		m := s.GetResource().GetMetadata()
		for _, secret := range spec.GetSecrets() {
			rows = append(rows, []string{
				m.GetNamespace(), m.GetName(), secret.GetId(), spec.GetOwner(), moment(secret.GetCreatedAt()), until(secret, now),
				strings.Join(spec.GetScopes(), ","), strings.Join(spec.GetGroups(), ","),
			})
		}
	}
	return rows, nil
}

func until(s *resourcev1.ApiKeySecret, now time.Time) string {
	switch {
	case s.GetNotAfter() == nil:
		return "for ever"
	case !now.Before(s.GetNotAfter().AsTime()):
		return "ended"
	}
	return moment(s.GetNotAfter())
}
