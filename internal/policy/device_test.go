package policy_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
)

// toldOf makes a device of what docs/signals.md says in short.
func toldOf(t *testing.T, text string, now time.Time) *policy.Device {
	t.Helper()
	if text == "nothing" {
		return nil
	}
	d := &policy.Device{ID: "laptop-7", Expires: now.Add(time.Hour)}
	for part := range strings.SplitSeq(strings.ReplaceAll(text, "`", ""), ", ") {
		name, value, _ := strings.Cut(part, ": ")
		fact := map[string]policy.Fact{"true": policy.Yes, "false": policy.No}[value]
		switch name {
		case "compliant":
			d.Compliant = fact
		case "diskEncrypted":
			d.DiskEncrypted = fact
		case "os":
			d.OS = value
		case "owner":
			d.Owner = value
		case "lastSeen":
			ago, err := time.ParseDuration(value)
			if err != nil {
				t.Fatal(err)
			}
			d.LastSeen = now.Add(-ago)
		case "expired":
			d.Expires = now
		default:
			t.Fatalf("docs/signals.md says %q of a device", part)
		}
	}
	return d
}

// The table of docs/signals.md is true.
func TestDeviceSignals(t *testing.T) {
	text, err := os.ReadFile("../../docs/signals.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for row := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(row), " | ")
		effect := strings.TrimPrefix(cells[0], "| ")
		if len(cells) != 4 || effect != "ALLOW" && effect != "DENY" || !strings.Contains(row, "signals.device") {
			continue
		}
		found++
		in := request(user("ann", "shop"), "GET", "/v1/orders/7")
		in.Device = toldOf(t, cells[1], in.Now)
		condition := when(strings.Trim(cells[2], "`"))
		policies := []*policy.Policy{allow(t, "a", group("shop"), condition)}
		if effect == "DENY" {
			policies = []*policy.Policy{allow(t, "a", group("shop")), deny(t, "d", group("shop"), condition)}
		}
		want := strings.TrimSuffix(cells[3], " |") == "allowed"
		if got := policy.NewSet([]policy.Binding{{Route: orders, Policies: policies}}).Decide(in); got.Allow != want {
			t.Errorf("%s: %+v", strings.TrimSpace(row), got)
		}
	}
	if found < 15 {
		t.Errorf("docs/signals.md has %d rows about devices", found)
	}
}

// Closures and CEL's library see the same device, known or not.
func TestDeviceBothWays(t *testing.T) {
	full := &policy.Device{
		ID: "laptop-7", OS: "macos", OSVersion: "26.1", Owner: "ann", DiskEncrypted: policy.Yes, ScreenLock: policy.No,
		Compliant: policy.Yes, Managed: policy.No,
	}
	now := request(nil, "GET", "/").Now
	full.LastSeen, full.Expires = now.Add(-time.Hour), now.Add(time.Nanosecond)
	stale := *full
	stale.Expires = now
	odd := &policy.Device{Compliant: 7, Expires: now.Add(time.Hour)}
	for _, field := range []string{"id", "os", "os_version", "owner", "disk_encrypted", "screen_lock", "compliant", "managed", "last_seen"} {
		text := "signals.device." + field
		for _, when := range []string{"has(" + text + ")", text + " == " + text} {
			c, err := policy.CompileCondition(when)
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]bool{"full": true, "stale": false, "odd": false, "none": false} {
				in := request(nil, "GET", "/")
				in.Device = map[string]*policy.Device{"full": full, "stale": &stale, "odd": odd}[name]
				closures, native := c.Closures(in)
				library := c.Library(in)
				if !native || closures != library || (closures == "true") != want {
					t.Errorf("%s of %s: closures say %q (%t), the library %q", when, name, closures, native, library)
				}
			}
		}
	}
}

func TestReadingADeviceDoesNotAllocate(t *testing.T) {
	in := request(user("ann", "shop"), "GET", "/")
	in.Device = &policy.Device{ID: "laptop-7", Owner: "ann", Compliant: policy.Yes, LastSeen: in.Now, Expires: in.Now.Add(time.Hour)}
	set := policy.NewSet([]policy.Binding{{Route: orders, Policies: []*policy.Policy{allow(t, "a", group("shop"),
		when(`signals.device.compliant && signals.device.owner == principal.id && signals.time - signals.device.last_seen < duration("24h")`))}}})
	if n := testing.AllocsPerRun(100, func() {
		if !set.Decide(in).Allow {
			t.Fatal("denied")
		}
	}); n > 0 {
		t.Errorf("%.0f allocations", n)
	}
}
