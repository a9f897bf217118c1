//go:build chaos

package chaos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

const (
	// latency is what the network adds in each direction.
	latency = 200 * time.Millisecond
	// loss is how many packets of a hundred are lost, in each direction.
	loss = 5
	// links is what the names of our ends of the network begin with.
	links = "spchaos"
	// herd is how many connections of each proxy may come in one second.
	herd = 3
)

// network is what lies between the proxies of a fleet, each in a namespace of its
// own, and the control plane.
type network struct {
	*stage
	relays []*relay
}

// moved puts the proxies of a fleet into namespaces.
func moved(t *testing.T, s *stage) *network {
	t.Helper()
	n := &network{stage: s}
	t.Cleanup(func() {
		_ = exec.Command("nft", "delete", "table", "inet", links).Run() // there may be none
	})
	for i, m := range s.Members {
		must(t, m.Stop())
		name, ours := fmt.Sprintf("%s-%d", links, i), fmt.Sprintf("198.18.%d.1", i)
		n.connect(t, name, ours, fmt.Sprintf("198.18.%d.2", i))
		var urls []string
		for _, r := range s.Replicas {
			at := startRelay(t, ours, strings.TrimPrefix(r.Registration, "https://"), latency)
			n.relays = append(n.relays, at)
			urls = append(urls, "https://"+at.ln.Addr().String())
		}
		n.settings(t, m, urls)
		m.Args = append([]string{"ip", "netns", "exec", name}, m.Args...)
		must(t, m.Start())
		t.Cleanup(func() { _ = m.Kill() }) // before its namespace goes
	}
	return n
}

// connect makes a namespace and the one way out of it.
func (n *network) connect(t *testing.T, name, ours, theirs string) {
	t.Helper()
	_ = exec.Command("ip", "netns", "del", name).Run() // of a run that was killed
	command(t, "", "ip", "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	command(t, "", "ip", "link", "add", name, "type", "veth", "peer", "name", "out", "netns", name)
	command(t, "", "ip", "addr", "add", ours+"/30", "dev", name)
	command(t, "", "ip", "link", "set", name, "up")
	command(t, "", "ip", "-n", name, "addr", "add", theirs+"/30", "dev", "out")
	command(t, "", "ip", "-n", name, "link", "set", "out", "up")
	command(t, "", "ip", "-n", name, "link", "set", "lo", "up")
}

// settings has a proxy know other addresses of the control plane.
func (n *network) settings(t *testing.T, m *fleet.Member, urls []string) {
	t.Helper()
	file := n.Path(m.Name + ".yaml")
	b, err := os.ReadFile(file)
	must(t, err)
	settings := map[string]any{}
	must(t, yaml.Unmarshal(b, &settings))
	settings["control_planes"] = urls
	b, err = yaml.Marshal(settings)
	must(t, err)
	must(t, os.WriteFile(file, b, 0o600))
}

// drops has packets dropped that a rule of nft is true for, in both directions;
// none when it is empty.
func (n *network) drops(t *testing.T, interfaces, rule string) {
	t.Helper()
	text := "table inet " + links + "\ndelete table inet " + links + "\n"
	if interfaces != "" {
		text += fmt.Sprintf(`table inet %s {
	chain in { type filter hook input priority 0; iifname "%[2]s" %[3]s drop; }
	chain out { type filter hook output priority 0; oifname "%[2]s" %[3]s drop; }
}
`, links, interfaces, rule)
	}
	command(t, text, "nft", "-f", "-")
}

func command(t *testing.T, input, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// converges is what it is of a stage, seen from the logs: a namespace lets nobody
// in to ask.
func (n *network) converges(t *testing.T, since time.Time) time.Duration {
	t.Helper()
	revision := n.changes(t)
	for _, m := range n.Members {
		eventually(t, patience, func(context.Context) (bool, string) {
			at := applied(t, m)
			return at >= revision, fmt.Sprintf("%s is at revision %d, not at %d", m.Name, at, revision)
		})
	}
	return time.Since(since)
}

// applied returns the revision that a proxy put in force last.
func applied(t *testing.T, m *fleet.Member) (revision int64) {
	t.Helper()
	log, err := os.ReadFile(m.Log)
	must(t, err)
	for line := range bytes.Lines(log) {
		var e entry
		if json.Unmarshal(line, &e) == nil && e.Message == "snapshot applied" && e.Environment == m.Environment {
			revision = e.Revision
		}
	}
	return revision
}

// Proxies behind a network that is slow, loses packets, and is cut for less and
// for longer than it takes to notice, are current again within seconds, and do not
// come all at once.
func TestNetwork(t *testing.T) {
	n := moved(t, start(t))
	n.converges(t, time.Now())
	figure(t, "network_slow", n.converges(t, time.Now()).Seconds(), "s", afterOne)

	n.drops(t, links+"*", fmt.Sprintf("numgen random mod 100 < %d", loss))
	worst := 0.0
	for range 20 {
		worst = max(worst, n.converges(t, time.Now()).Seconds())
	}
	figure(t, "network_lossy", worst, "s", afterOne)
	worst = 0

	for _, cut := range []time.Duration{3 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second} {
		for _, interfaces := range []string{links + "-0", links + "*"} {
			n.drops(t, interfaces, "")
			n.changes(t)
			<-time.After(cut)
			n.drops(t, "", "")
			took := n.converges(t, time.Now()).Seconds()
			t.Logf("%s cut for %s: %.2f s", interfaces, cut, took)
			worst = max(worst, took)
		}
		figure(t, fmt.Sprintf("network_healed_after_%.0fs", cut.Seconds()), worst, "s", afterOne)
		worst = 0
	}
	figure(t, "network_accepted_per_second", float64(busiest(n.relays)), "connections", float64(herd*len(n.Members)))
	history := n.history(t)
	for _, m := range n.Members {
		checkApplied(t, m, history)
	}
}
