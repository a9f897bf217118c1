package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// evaluation is a request that somebody describes.
type evaluation struct {
	question   adminv1.Question
	principal  decisionv1.Principal
	headers    []string
	ip, tls    string
	device     string
	denials    map[string]int64
	at         string
	candidates []string
	revision   int64
	out        output

	configurationAge, securityAge time.Duration // negative for not known
}

func newEval(server *connection) *cobra.Command {
	var e evaluation
	cmd := &cobra.Command{
		Use:   "eval METHOD HOST/PATH",
		Short: "Say what would be decided on a request, and why",
		Long: `Say what would be decided on a request, and why.

Who asks is taken as authenticated; revocations and the state of a proxy are not
looked at. Nobody asks who is not named: the request is anonymous.`,
		Example: `  sallyport eval -e aws-prod --id alice --group shop POST api.shop.example/v1/orders/7
  sallyport eval -e aws-prod --id alice --group shop -f new-policy.yaml GET api.shop.example/v1/orders/7`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.describe(args); err != nil {
				return err
			}
			c, err := server.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.close()
			return e.run(cmd, c)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&e.question.Environment, "environment", "e", "", "where it is asked")
	f.StringVar(&e.principal.Kind, "kind", "", "user, workload or key; user when an ID is given, workload when a SPIFFE ID is")
	f.StringVar(&e.principal.Id, "id", "", "who asks, by their `ID` at their issuer")
	f.StringVar(&e.principal.Issuer, "issuer", "", "who vouches for them")
	f.StringVar(&e.principal.Provider, "provider", "", "the IdentityProvider that does, as `namespace/name`")
	f.StringVar(&e.principal.SpiffeId, "spiffe-id", "", "the SPIFFE `ID` that is proven")
	f.StringVar(&e.principal.Key, "key", "", "the ApiKey that is shown, as `namespace/name`")
	f.StringArrayVar(&e.principal.Groups, "group", nil, "a `group` of theirs; may be repeated")
	f.StringArrayVar(&e.principal.Scopes, "scope", nil, "a `scope` of the credential; may be repeated")
	f.StringVar(&e.principal.Claims, "claims", "", "their claims, a `JSON` object")
	f.StringArrayVar(&e.headers, "header", nil, "a header, as `'Name: value'`; may be repeated")
	f.StringVar(&e.ip, "ip", "", "the client's `address`; not known when left out")
	f.StringVar(&e.device, "device", "", `the device that is proven, a JSON object such as {"id": "laptop-7", "compliant": true}`)
	f.StringVar(&e.tls, "tls", "1.3", "the `version` of TLS")
	f.StringToInt64Var(&e.denials, "denials", nil, "how often requests were denied, as `principal=3,address=20`; not known when left out")
	f.DurationVar(&e.configurationAge, "configuration-age", -1, "since the proxy's configuration was confirmed, as `5m`; not known when left out")
	f.DurationVar(&e.securityAge, "security-age", -1, "since what it knows of revocations was confirmed, as `5m`; not known when left out")
	f.StringVar(&e.at, "time", "", "when it is asked, as `2026-11-26T09:00:00Z`; now when left out")
	f.StringArrayVarP(&e.candidates, "file", "f", nil, "a `file` or folder as if it were applied; may be repeated")
	f.Int64Var(&e.revision, "revision", 0, "at this revision; the newest when 0")
	e.out.flag(cmd)
	return cmd
}

func (e *evaluation) describe(args []string) error {
	q := &e.question
	q.Method = args[0]
	host, path, slash := strings.Cut(strings.TrimPrefix(args[1], "https://"), "/")
	if q.Host = host; slash {
		q.Path = "/" + path
	}
	for _, text := range e.headers {
		name, value, ok := strings.Cut(text, ":")
		if !ok {
			return fmt.Errorf("--header %q: write it as 'Name: value'", text)
		}
		q.Headers = append(q.Headers, &decisionv1.Header{Name: strings.TrimSpace(name), Value: strings.TrimSpace(value)})
	}
	q.Signals = &decisionv1.Signals{Tls: &decisionv1.TLS{Version: e.tls}}
	if e.ip != "" {
		q.Signals.Ip = &decisionv1.Address{Address: e.ip}
	}
	if e.device != "" {
		q.Signals.Device = &decisionv1.Device{}
		if err := protojson.Unmarshal([]byte(e.device), q.Signals.Device); err != nil {
			return fmt.Errorf("--device: it is a JSON object such as {\"id\": \"laptop-7\"}: %w", err)
		}
	}
	q.Signals.ConfigurationAge, q.Signals.SecurityAge = span(e.configurationAge), span(e.securityAge)
	if err := e.denied(q.Signals); err != nil {
		return err
	}
	if e.at != "" {
		at, err := time.Parse(time.RFC3339, e.at)
		if err != nil {
			return errors.New("--time is written as 2026-11-26T09:00:00Z")
		}
		q.Time = timestamppb.New(at)
	}
	e.identify()
	return nil
}

// span is a time that has passed, nil for a negative one.
func span(d time.Duration) *durationpb.Duration {
	if d < 0 {
		return nil
	}
	return durationpb.New(d)
}

// denied says how often there were denials.
func (e *evaluation) denied(to *decisionv1.Signals) error {
	if len(e.denials) > 0 {
		to.Denials = &decisionv1.Denials{}
	}
	for of, n := range e.denials {
		switch of {
		case "principal":
			to.Denials.Principal = &n
		case "address":
			to.Denials.Address = &n
		default:
			return errors.New("--denials is written as principal=3,address=20")
		}
	}
	return nil
}

// identify says who asks, as far as that follows from what is given.
func (e *evaluation) identify() {
	p := &e.principal
	if p.GetKind() == "" {
		switch {
		case p.GetSpiffeId() != "":
			p.Kind = "workload"
		case p.GetKey() != "":
			p.Kind = "key"
		case p.GetId() != "" || len(p.GetGroups()) > 0:
			p.Kind = "user"
		}
	}
	if p.GetId() == "" && p.GetSpiffeId() != "" {
		p.Id = p.GetSpiffeId()
	}
	if p.GetKind() != "" {
		e.question.Principal = p
	}
}

func (e *evaluation) run(cmd *cobra.Command, c *clients) error {
	req := &adminv1.EvaluateRequest{Question: &e.question, Revision: e.revision}
	if len(e.candidates) > 0 {
		located, err := readResources(e.candidates, cmd.InOrStdin())
		if err != nil {
			return err
		}
		for _, l := range located {
			req.Candidates = append(req.Candidates, l.Resource)
		}
	}
	res, err := c.policies.Evaluate(cmd.Context(), connect.NewRequest(req))
	if err != nil {
		return err
	}
	if done, err := e.out.message(cmd.OutOrStdout(), res.Msg); done {
		return err
	}
	_, err = io.WriteString(cmd.OutOrStdout(), answered(res.Msg.GetAnswer()))
	return err
}

// answered is an answer as people read it.
func answered(a *adminv1.Answer) string {
	var t telling
	t.headline(a.GetAllow(), a.GetStatus(), a.GetReason())
	t.fact("route", a.GetRoute())
	t.others(a)
	t.fact("goes to", a.GetTarget())
	t.fact("accepts", strings.Join(a.GetAccepts(), ", "))
	t.fact("rule", a.GetPolicy())
	if a.GetRevision() > 0 {
		t.fact("revision", fmt.Sprint(a.GetRevision()))
	}
	t.fact("detail", a.GetDetail())
	t.steps(a.GetSteps(), a.GetOmitted())
	t.shadow(a.GetShadow())
	t.changes(a.GetChanges(), "")
	t.inexact(a)
	return t.String()
}

// others names the routes that would take the request without the one that does.
func (t *telling) others(a *adminv1.Answer) {
	if all := a.GetRoutes(); len(all) > 1 && all[0] == a.GetRoute() {
		t.fact("before", strings.Join(all[1:], ", "))
	}
}
