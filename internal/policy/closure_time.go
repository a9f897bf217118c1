package policy

import (
	"strconv"
	"strings"
	"time"

	// Proxies run where no zones are installed.
	_ "time/tzdata"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

func toMoment(c code) code {
	if c.moment != nil {
		return c
	}
	moment, v := converted(c, types.TimestampType, func(v ref.Val) (time.Time, bool) {
		t, ok := v.(types.Timestamp)
		return t.Time, ok
	})
	return code{moment: moment, literal: v}
}

func toSpan(c code) code {
	if c.span != nil {
		return c
	}
	span, v := converted(c, types.DurationType, func(v ref.Val) (time.Duration, bool) {
		d, ok := v.(types.Duration)
		return d.Duration, ok
	})
	return code{span: span, literal: v}
}

// timeParts are CEL's functions of a time. Some count from zero.
var timeParts = map[string]func(time.Time) int{
	"getFullYear":     time.Time.Year,
	"getMonth":        func(t time.Time) int { return int(t.Month()) - 1 },
	"getDayOfYear":    func(t time.Time) int { return t.YearDay() - 1 },
	"getDate":         time.Time.Day,
	"getDayOfMonth":   func(t time.Time) int { return t.Day() - 1 },
	"getDayOfWeek":    func(t time.Time) int { return int(t.Weekday()) },
	"getHours":        time.Time.Hour,
	"getMinutes":      time.Time.Minute,
	"getSeconds":      time.Time.Second,
	"getMilliseconds": func(t time.Time) int { return t.Nanosecond() / 1e6 },
}

// spanParts are CEL's functions of a duration.
var spanParts = map[string]func(time.Duration) int64{
	"getHours":        func(d time.Duration) int64 { return int64(d.Hours()) },
	"getMinutes":      func(d time.Duration) int64 { return int64(d.Minutes()) },
	"getSeconds":      func(d time.Duration) int64 { return int64(d.Seconds()) },
	"getMilliseconds": func(d time.Duration) int64 { return d.Milliseconds() },
}

// timePart compiles a.getHours() and its like, with or without a zone.
func timePart(name string, args []code) code {
	if len(args) == 0 || len(args) > 2 {
		return code{}
	}
	if span, part := args[0].span, spanParts[name]; span != nil && part != nil && len(args) == 1 {
		return code{whole: func(f *facts, s *scope) (int64, fault) {
			v, x := span(f, s)
			return part(v), x
		}}
	}
	moment, part := args[0].moment, timeParts[name]
	zone := time.UTC
	if len(args) == 2 {
		zone = zoneOf(args[1])
	}
	if moment == nil || part == nil || zone == nil {
		return code{}
	}
	return code{whole: func(f *facts, s *scope) (int64, fault) {
		v, x := moment(f, s)
		return int64(part(v.In(zone))), x
	}}
}

func zoneOf(c code) *time.Location {
	name, ok := c.literal.(string)
	if !ok {
		return nil
	}
	zone, err := parseZone(name)
	if err != nil {
		return nil
	}
	return zone
}

// parseZone returns the zone that CEL knows as name: one of the IANA's, or an
// offset as "+02:00".
func parseZone(name string) (*time.Location, error) {
	hours, minutes, ok := strings.Cut(name, ":")
	if !ok {
		return time.LoadLocation(name)
	}
	h, err := strconv.Atoi(hours)
	if err != nil {
		return nil, err
	}
	m, err := strconv.Atoi(minutes)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(name, "-") {
		m = -m
	}
	return time.FixedZone("", (h*60+m)*60), nil
}

// nonsenseZone returns what is wrong with a time zone.
func nonsenseZone(e ast.Expr) string {
	if e.Kind() != ast.LiteralKind {
		return "the time zone must be a literal"
	}
	if e.AsLiteral().Value() == "Local" {
		return "every machine has its own Local: name a time zone"
	}
	midnight := types.Timestamp{Time: time.Unix(0, 0).UTC()}
	if types.IsError(midnight.Receive("getHours", "", []ref.Val{e.AsLiteral()})) {
		return "is no time zone: write it as \"Europe/Berlin\" or \"+01:00\""
	}
	return ""
}
