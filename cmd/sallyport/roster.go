package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

// state says in a word how a proxy is: what operators have ruled goes before what
// its stream says.
func state(p *adminv1.Proxy) string {
	switch s := p.GetStanding(); {
	case s == adminv1.Standing_STANDING_QUARANTINED, s == adminv1.Standing_STANDING_REFUSED:
		return word(s.String())
	case p.GetConnection() == adminv1.Connection_CONNECTION_PENDING && s == adminv1.Standing_STANDING_AWAITING_APPROVAL:
		return word(s.String())
	case connected(p) && p.GetDraining():
		return "DRAINING"
	}
	return word(p.GetConnection().String())
}

func connected(p *adminv1.Proxy) bool {
	return p.GetConnection() == adminv1.Connection_CONNECTION_CONNECTED
}

// drain says what became of a drain.
func drain(p *adminv1.Proxy) string {
	switch {
	case p.GetDrain() && p.GetDraining():
		return "yes"
	case p.GetDrain():
		return "asked for; the proxy has not said yet that it does"
	case p.GetDraining():
		return "taken back; the proxy still does"
	}
	return ""
}

// ruledBy is a text with who ruled so, and why.
func ruledBy(what string, by *adminv1.Ruling) string {
	if by == nil {
		return what
	}
	text := fmt.Sprintf("%s by %s, %s", orDash(what), by.GetCaller(), moment(by.GetAt()))
	if by.GetReason() != "" {
		text += ": " + by.GetReason()
	}
	return text
}

func placeOf(p *adminv1.Place) string {
	text := strings.Trim(p.GetCloud()+" "+p.GetRegion(), " ")
	if p.GetClaimed() {
		text += " (as it says itself)"
	}
	return text
}

func labelled(labels map[string]string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, key+"="+labels[key])
	}
	return strings.Join(parts, " ")
}

func loadOf(l *adminv1.Load) string {
	if l == nil {
		return ""
	}
	return fmt.Sprintf("%.1f requests/s, %d under way, %s of its processors", l.GetRequestsPerSecond(), l.GetOpenRequests(), percent(l.GetProcessorShare()))
}

func percent(share float64) string { return strconv.FormatFloat(100*share, 'f', 0, 64) + "%" }

// labelOf returns a label of a proxy: that of operators goes first. Where it is and
// what it is are labels, too.
func labelOf(p *adminv1.Proxy, key string) (value string, ok bool) {
	switch key {
	case "environment":
		return p.GetEnvironment(), true
	case "cloud":
		return p.GetPlace().GetCloud(), true
	case "region":
		return p.GetPlace().GetRegion(), true
	case "build":
		return p.GetBuild(), true
	}
	if value, ok = p.GetOperatorLabels()[key]; ok {
		return value, true
	}
	value, ok = p.GetLabels()[key]
	return value, ok
}

func wideRows(proxies []*adminv1.Proxy, now time.Time) [][]string {
	var rows [][]string
	for _, p := range proxies {
		var requests, open, share string
		if l := p.GetLoad(); l != nil {
			requests, open, share = fmt.Sprintf("%.1f", l.GetRequestsPerSecond()), strconv.FormatInt(l.GetOpenRequests(), 10), percent(l.GetProcessorShare())
		}
		both := maps.Clone(p.GetLabels())
		if both == nil {
			both = map[string]string{}
		}
		maps.Copy(both, p.GetOperatorLabels())
		rows = append(rows, []string{
			p.GetEnvironment(), p.GetInstance(), state(p), p.GetPlace().GetCloud(), p.GetPlace().GetRegion(), p.GetBuild(),
			uptime(p, now), requests, open, share, expires(p, now), skew(p.GetClockSkew()), labelled(both),
		})
	}
	return rows
}

// uptime is for how long a proxy has run; empty if it is not known to run.
func uptime(p *adminv1.Proxy, now time.Time) string {
	if p.GetStartedAt() == nil || !connected(p) {
		return ""
	}
	return short(now.Sub(p.GetStartedAt().AsTime()))
}

// expires is in how long the identity of a proxy does.
func expires(p *adminv1.Proxy, now time.Time) string {
	if p.GetIdentityExpiresAt() == nil {
		return ""
	}
	left := p.GetIdentityExpiresAt().AsTime().Sub(now)
	if left <= 0 {
		return "expired"
	}
	return "in " + short(left)
}

// short is a duration in its largest unit.
func short(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}

// group is what there is to say of several proxies.
type group struct {
	proxies, connected, late, rejects, drift, lost, out int
	from, to                                            int64 // revisions of those that are connected
}

func (g *group) add(p *adminv1.Proxy) {
	g.proxies++
	switch s := p.GetStanding(); {
	case s == adminv1.Standing_STANDING_QUARANTINED, s == adminv1.Standing_STANDING_REFUSED, p.GetConnection() == adminv1.Connection_CONNECTION_PENDING:
		g.out++
		return
	case !connected(p):
		g.lost++
		return
	}
	if g.connected == 0 || p.GetRevision() < g.from {
		g.from = p.GetRevision()
	}
	g.to = max(g.to, p.GetRevision())
	g.connected++
	if p.GetRevision() < p.GetEnvironmentRevision() {
		g.late++
	}
	switch p.GetEnforcement() {
	case adminv1.Enforcement_ENFORCEMENT_DRIFT:
		g.drift++
	case adminv1.Enforcement_ENFORCEMENT_ENFORCED_WITH_REJECTS:
		g.rejects++
	case adminv1.Enforcement_ENFORCEMENT_ENFORCED, adminv1.Enforcement_ENFORCEMENT_UNSPECIFIED:
	}
}

func (g *group) revisions() string {
	switch {
	case g.connected == 0:
		return ""
	case g.from == g.to:
		return strconv.FormatInt(g.to, 10)
	}
	return fmt.Sprintf("%d-%d", g.from, g.to)
}

// groupRows counts proxies by a label.
func groupRows(proxies []*adminv1.Proxy, by string) [][]string {
	groups := map[string]*group{}
	for _, p := range proxies {
		name, _ := labelOf(p, by)
		if groups[name] == nil {
			groups[name] = &group{}
		}
		groups[name].add(p)
	}
	var rows [][]string
	for _, name := range slices.SortedFunc(maps.Keys(groups), cmp.Compare[string]) {
		g := groups[name]
		row := []string{name, strconv.Itoa(g.proxies), strconv.Itoa(g.connected), g.revisions()}
		for _, n := range []int{g.late, g.rejects, g.drift, g.lost, g.out} {
			row = append(row, strconv.Itoa(n))
		}
		rows = append(rows, row)
	}
	return rows
}
