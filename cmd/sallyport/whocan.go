package main

import (
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

func newWhoCan(server *connection) *cobra.Command {
	var req adminv1.WhoCanRequest
	var out output
	cmd := &cobra.Command{
		Use:   "who-can METHOD HOST/PATH | who-can METHOD --route NAMESPACE/NAME",
		Short: "Say whom policies allow, under what conditions, and what may deny all the same",
		Example: `  sallyport who-can -e aws-prod GET api.shop.example/v1/orders/7
  sallyport who-can -e aws-prod DELETE --route shop/orders`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Method = args[0]
			if len(args) > 1 {
				host, path, _ := strings.Cut(strings.TrimPrefix(args[1], "https://"), "/")
				req.Host, req.Path = host, "/"+path
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			res, err := c.policies.WhoCan(cmd.Context(), connect.NewRequest(&req))
			if err != nil {
				return err
			}
			if done, err := out.message(cmd.OutOrStdout(), res.Msg); done {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), whoCan(res.Msg))
			return err
		},
	}
	cmd.Flags().StringVarP(&req.Environment, "environment", "e", "", "where it is asked")
	cmd.Flags().StringVar(&req.Route, "route", "", "the route, as `namespace/name`, in place of host and path")
	cmd.Flags().Int64Var(&req.Revision, "revision", 0, "at this revision; the newest when 0")
	out.flag(cmd)
	return cmd
}

func whoCan(res *adminv1.WhoCanResponse) string {
	var t telling
	t.line("%s, at revision %d", res.GetRoute(), res.GetRevision())
	t.fact("accepts", strings.Join(res.GetAccepts(), ", "))
	t.gap()
	switch {
	case res.GetUnavailable() != "":
		t.line("NOBODY: %s", res.GetUnavailable())
	case len(res.GetAllows()) == 0:
		t.line("NOBODY: no ALLOW is for such requests")
	default:
		t.line("allowed, unless something denies:")
		t.rules(res.GetAllows())
	}
	if len(res.GetDenies()) > 0 {
		t.gap()
		t.line("denied all the same:")
		t.rules(res.GetDenies())
	}
	return t.String()
}

func (t *telling) rules(rules []*adminv1.Rule) {
	for _, r := range rules {
		principals := r.GetPrincipals()
		if len(principals) == 0 {
			principals = []string{"everybody"}
		}
		shadow := ""
		if r.GetShadow() {
			shadow = " (in shadow: it does not count)"
		}
		for i, p := range principals {
			if i == 0 {
				t.line("  %s, by %s%s", p, r.GetPolicy(), shadow)
			} else {
				t.line("  %s", p)
			}
		}
		for _, part := range [...]string{
			named("methods: ", strings.Join(r.GetMethods(), ", ")), named("paths: ", strings.Join(r.GetPaths(), ", ")),
			named("when: ", strings.TrimSpace(r.GetWhen())), r.GetGrant(),
		} {
			if part != "" {
				t.line("      %s", part)
			}
		}
	}
}
