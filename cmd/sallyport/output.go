package main

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// output is how an answer is printed: table, json or yaml.
type output string

func (o *output) flag(cmd *cobra.Command) {
	*o = "table"
	cmd.Flags().VarP(o, "output", "o", "print as table, json or yaml")
}

// String implements pflag.Value.
func (o *output) String() string { return string(*o) }

// Type implements pflag.Value.
func (o *output) Type() string { return "format" }

// Set implements pflag.Value.
func (o *output) Set(s string) error {
	switch s {
	case "table", "json", "yaml":
		*o = output(s)
		return nil
	}
	return errors.New("is table, json or yaml")
}

// message prints a message as JSON or YAML; false if a table is wanted.
func (o *output) message(w io.Writer, v any) (bool, error) {
	m, ok := v.(proto.Message)
	if *o == "table" || !ok {
		return false, nil
	}
	b, err := encode(m)
	if err != nil {
		return true, err
	}
	if *o == "yaml" {
		if b, err = yaml.JSONToYAML(b); err != nil {
			return true, err
		}
	}
	_, err = w.Write(b)
	return true, err
}

// encode returns indented JSON. protojson varies its white space on purpose;
// the output of a command should not.
func encode(m proto.Message) ([]byte, error) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	var v any
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	if err := decoder.Decode(&v); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(v, "", "  ")
	return append(b, '\n'), err
}

// table prints rows under a header, aligned. What is empty is shown as a dash.
func table(w io.Writer, header string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, strings.ReplaceAll(header, " ", "\t"))
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = orDash(printable(cell))
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

// printable leaves no control characters to a terminal: what others wrote is
// shown, and does nothing.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return '\uFFFD'
		}
		return r
	}, s)
}

// orDash stands for what is empty.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func age(d *durationpb.Duration) string {
	if d == nil {
		return "-"
	}
	return d.AsDuration().Round(time.Second).String()
}

func since(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return "-"
	}
	return now.Sub(t.AsTime()).Round(time.Second).String() + " ago"
}

func moment(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Format(time.RFC3339)
}

// explain returns an error as an operator should read it: the server's own
// words, and every problem on a line of its own. Of what went wrong on the way
// to the server it says what may help.
func explain(err error) string {
	var server *connect.Error
	if !errors.As(err, &server) {
		return err.Error()
	}
	if !connect.IsWireError(err) {
		return "call the control plane: " + server.Message() + hint(err)
	}
	p := problems(err)
	if p == nil || len(p.GetProblems()) < 2 {
		return server.Message() + hint(err)
	}
	lines := []string{count(int(p.GetTotal()), "problem") + ":"}
	for _, one := range p.GetProblems() {
		lines = append(lines, "  "+describe(one))
	}
	if more := int(p.GetTotal()) - len(p.GetProblems()); more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", more))
	}
	return strings.Join(lines, "\n")
}

func hint(err error) string {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case connect.CodeOf(err) == connect.CodeUnauthenticated && connect.IsWireError(err):
		return ": with --workload-socket or --token-file; there was none, or none that is valid here"
	case errors.As(err, &unknown):
		return ": give --ca-file, or --server-id if it presents its X.509-SVID"
	case errors.As(err, &name):
		return ": give --server-id if it presents its X.509-SVID"
	}
	return ""
}

// describe returns a problem on one line.
func describe(p *adminv1.Problem) string {
	var b strings.Builder
	for _, part := range []string{p.GetResource(), p.GetField()} {
		if part != "" {
			b.WriteString(part + ": ")
		}
	}
	if p.GetLine() > 0 {
		fmt.Fprintf(&b, "%d:%d: ", p.GetLine(), p.GetColumn())
	}
	fmt.Fprintf(&b, "%s (%s)", p.GetMessage(), p.GetReason())
	return printable(b.String())
}

// problems returns the detail that says what is wrong with a request; nil if
// there is none.
func problems(err error) *adminv1.Problems {
	var server *connect.Error
	if !errors.As(err, &server) {
		return nil
	}
	for _, d := range server.Details() {
		if v, err := d.Value(); err == nil {
			if p, ok := v.(*adminv1.Problems); ok {
				return p
			}
		}
	}
	return nil
}

// count says how many of something there are.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
