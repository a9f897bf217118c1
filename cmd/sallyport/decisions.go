package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// decisions is what is asked of the decisions of proxies.
type decisions struct {
	filter          adminv1.DecisionFilter
	allowed, denied bool
	follow          bool
	since           time.Duration
	limit           int32
	out             output
}

func newDecisions(server *connection) *cobra.Command {
	var d decisions
	cmd := &cobra.Command{
		Use:   "decisions [ID]",
		Short: "Show what proxies have decided, newest first",
		Example: `  sallyport decisions --denied --principal alice
  sallyport decisions 01935a1c-7d43-7b1c-9d1e-2f6a3c4b5d6e -o yaml
  sallyport decisions --follow --denied --route shop/orders`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				d.filter.Id = args[0]
			}
			if err := d.check(); err != nil {
				return err
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			if d.follow {
				return d.tail(cmd, c)
			}
			return d.query(cmd, c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.filter.Principal, "principal", "", "only those on this principal, by its `ID`")
	f.StringVar(&d.filter.Route, "route", "", "only those of this route, as `namespace/name`")
	f.StringVar(&d.filter.Reason, "reason", "", "only those for this `reason`, such as no_matching_policy")
	f.StringVar(&d.filter.Proxy, "proxy", "", "only those of this proxy, by the `ID` that fleet -o json shows")
	f.StringVarP(&d.filter.Environment, "environment", "e", "", "only those of this environment")
	f.StringVar(&d.filter.Trace, "trace", "", "only those of this trace, by its `ID`")
	f.BoolVar(&d.allowed, "allowed", false, "only what was allowed")
	f.BoolVar(&d.denied, "denied", false, "only what was denied")
	f.BoolVar(&d.follow, "follow", false, "show those to come, until interrupted")
	f.DurationVar(&d.since, "since", 0, "only those of so long ago and later, such as 1h; all when 0")
	f.Int32Var(&d.limit, "limit", 20, "at most so many, up to 1000")
	d.out.flag(cmd)
	return cmd
}

func (d *decisions) check() error {
	switch {
	case d.allowed && d.denied:
		return errors.New("give --allowed or --denied, not both")
	case d.follow && d.since != 0:
		return errors.New("--follow shows what is to come: it goes without --since")
	case d.limit < 1 || d.limit > 1000:
		return errors.New("--limit is from 1 to 1000")
	case d.allowed:
		d.filter.Verdict = adminv1.Verdict_VERDICT_ALLOW
	case d.denied:
		d.filter.Verdict = adminv1.Verdict_VERDICT_DENY
	}
	return nil
}

func (d *decisions) query(cmd *cobra.Command, c *clients) error {
	req := &adminv1.QueryRequest{Filter: &d.filter, PageSize: d.limit}
	if d.since > 0 {
		req.Since = timestamppb.New(time.Now().Add(-d.since))
	}
	res, err := c.decisions.Query(cmd.Context(), connect.NewRequest(req))
	if err != nil {
		return err
	}
	if done, err := d.out.message(cmd.OutOrStdout(), res.Msg); done {
		return err
	}
	return table(cmd.OutOrStdout(), decisionHeader, decisionRows(res.Msg.GetDecisions()))
}

const decisionHeader = "TIME DECISION REASON STATUS COUNT PRINCIPAL REQUEST ROUTE POLICY REVISION ID"

func decisionRows(all []*decisionv1.Decision) [][]string {
	var rows [][]string
	for _, d := range all {
		rows = append(rows, decisionRow(d))
	}
	return rows
}

func decisionRow(d *decisionv1.Decision) []string {
	verdict, status := "ALLOW", ""
	switch o := d.GetOutcome(); {
	case !d.GetAllow():
		verdict, status = "DENY", strconv.Itoa(int(d.GetStatus()))
	case o != nil:
		status = joined(" ", strconv.Itoa(int(o.GetStatus())), o.GetReason())
	}
	r := d.GetRequest()
	return []string{
		d.GetTime().AsTime().Format("2006-01-02T15:04:05.000Z"), verdict, d.GetReason(), status,
		strconv.FormatInt(max(d.GetCount(), 1), 10), d.GetPrincipal().GetId(),
		strings.TrimSpace(r.GetMethod() + " " + r.GetHost() + r.GetPath()), d.GetRoute(), d.GetPolicy(),
		strconv.FormatInt(d.GetRevision(), 10), d.GetId(),
	}
}

// tail prints decisions as they come, a line each: also where they are JSON.
func (d *decisions) tail(cmd *cobra.Command, c *clients) error {
	stream, err := c.decisions.Tail(cmd.Context(), connect.NewRequest(&adminv1.TailRequest{Filter: &d.filter}))
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		if n := stream.Msg().GetSkipped(); n > 0 {
			cmd.PrintErrf("%s came faster than they were shown\n", count(int(n), "decision"))
		}
		for _, one := range stream.Msg().GetDecisions() {
			if err := d.print(cmd.OutOrStdout(), one); err != nil {
				return err
			}
		}
	}
	if err := stream.Err(); err != nil && cmd.Context().Err() == nil {
		return err
	}
	return nil
}

func (d *decisions) print(w io.Writer, one *decisionv1.Decision) error {
	if d.out == "json" {
		b, err := encode(one)
		if err != nil {
			return err
		}
		var line bytes.Buffer
		if err := json.Compact(&line, b); err != nil {
			return err
		}
		_, err = w.Write(append(line.Bytes(), '\n'))
		return err
	}
	if done, err := d.out.message(w, one); done {
		return err
	}
	cells := decisionRow(one)
	for i, cell := range cells {
		cells[i] = orDash(printable(cell))
	}
	_, err := io.WriteString(w, strings.Join(cells, "  ")+"\n")
	return err
}
