package deployments_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// directives are those that the units may use, by section: a typing error would
// be ignored by systemd, and a protection with it.
var directives = map[string][]string{
	"Unit": {"Description", "Documentation", "Wants", "After", "StartLimitIntervalSec", "StartLimitBurst"},
	"Service": {
		"Type", "TimeoutStartSec", "WatchdogSec", "NonBlocking", "User", "Group", "ExecStartPre", "ExecStart", "Restart", "RestartSec", "TimeoutStopSec",
		"StateDirectory", "StateDirectoryMode", "LogsDirectory", "LogsDirectoryMode", "LimitNOFILE", "LimitCORE", "UMask",
		"NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities",
		"ProtectSystem", "ProtectHome", "ProtectHostname", "ProtectClock", "ProtectControlGroups", "ProtectKernelLogs",
		"ProtectKernelModules", "ProtectKernelTunables", "ProtectProc",
		"PrivateTmp", "PrivateMounts", "PrivateDevices", "PrivateUsers",
		"LockPersonality", "MemoryDenyWriteExecute", "RemoveIPC", "RestrictAddressFamilies", "RestrictNamespaces",
		"RestrictRealtime", "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber",
	},
	"Install": {"WantedBy"},
}

// hardened is what both units have to say, word for word.
var hardened = map[string][]string{
	"Restart": {"on-failure"}, "LimitCORE": {"0"}, "UMask": {"0077"},
	"NoNewPrivileges": {"true"}, "ProtectSystem": {"strict"}, "ProtectHome": {"true"}, "ProtectHostname": {"true"},
	"ProtectClock": {"true"}, "ProtectControlGroups": {"true"}, "ProtectKernelLogs": {"true"},
	"ProtectKernelModules": {"true"}, "ProtectKernelTunables": {"true"}, "ProtectProc": {"invisible"},
	"PrivateTmp": {"true"}, "PrivateMounts": {"true"}, "PrivateDevices": {"true"},
	"LockPersonality": {"true"}, "MemoryDenyWriteExecute": {"true"}, "RemoveIPC": {"true"},
	"RestrictAddressFamilies": {"AF_UNIX AF_INET AF_INET6"}, "RestrictNamespaces": {"true"}, "RestrictRealtime": {"true"},
	"RestrictSUIDSGID": {"true"}, "SystemCallArchitectures": {"native"},
	"SystemCallFilter": {"@system-service", "~@privileged @resources"}, "SystemCallErrorNumber": {"EPERM"},
}

// apart is what differs: only proxies may bind ports below 1024 or keep state.
var apart = map[string]map[string][]string{
	"sallyport-controlplane": {
		"Type": {"exec"}, "CapabilityBoundingSet": {""}, "AmbientCapabilities": {""}, "PrivateUsers": {"true"}, "StateDirectory": nil,
	},
	"sallyport-proxy": {
		"Type": {"notify"}, "WatchdogSec": {"30s"}, "NonBlocking": {"true"}, "CapabilityBoundingSet": {"CAP_NET_BIND_SERVICE"}, "AmbientCapabilities": {"CAP_NET_BIND_SERVICE"},
		"PrivateUsers": nil, "StateDirectory": {"sallyport-proxy"}, "StateDirectoryMode": {"0700"},
	},
}

func TestUnitsAreHardened(t *testing.T) {
	for _, s := range servers {
		service := parseUnit(t, s)["Service"]
		for _, wanted := range []map[string][]string{hardened, apart[s.name], {"User": {s.name}, "Group": {s.name}}} {
			for directive, want := range wanted {
				if got := service[directive]; !slices.Equal(got, want) {
					t.Errorf("%s: %s is %q, want %q", s.name, directive, got, want)
				}
			}
		}
	}
}

// A unit checks its settings first, and then starts with the same ones.
func TestUnitsCheckBeforeTheyStart(t *testing.T) {
	for _, s := range servers {
		service := parseUnit(t, s)["Service"]
		if len(service["ExecStart"]) != 1 || !slices.Equal(service["ExecStartPre"], []string{service["ExecStart"][0] + " --check"}) {
			t.Errorf("%s starts %q, after %q", s.name, service["ExecStart"], service["ExecStartPre"])
		}
	}
}

// The service manager waits longer than the servers drain.
func TestUnitsLetServersDrain(t *testing.T) {
	drains := map[string]*regexp.Regexp{
		"controlplane/listeners.go":      regexp.MustCompile(`drainFor = (\d+) \* time\.Second`),
		"dataplane/gateway/listeners.go": regexp.MustCompile(`drain = (\d+) \* time\.Second`),
	}
	for i, source := range []string{"controlplane/listeners.go", "dataplane/gateway/listeners.go"} {
		m := drains[source].FindStringSubmatch(read(t, source))
		if m == nil {
			t.Fatalf("%s does not say how long it drains", source)
		}
		drain, err := time.ParseDuration(m[1] + "s")
		if err != nil {
			t.Fatal(err)
		}
		stop, err := time.ParseDuration(strings.Join(parseUnit(t, servers[i])["Service"]["TimeoutStopSec"], " "))
		if err != nil {
			t.Fatal(err)
		}
		if stop < drain+10*time.Second {
			t.Errorf("%s drains for %s and is killed after %s", servers[i].name, drain, stop)
		}
	}
}

// The users of the units are made by the file beside them.
func TestUsersAreDeclared(t *testing.T) {
	users := regexp.MustCompile(`(?m)^u (\S+)`).FindAllStringSubmatch(read(t, "deployments/systemd/sallyport.sysusers"), -1)
	for i, s := range servers {
		if len(users) != len(servers) || users[i][1] != s.name {
			t.Fatalf("the users are %q", users)
		}
	}
}

// Where systemd's own tools are installed, they judge the units as well. They
// read values more closely than the tests above, which hold everywhere.
func TestSystemdAgrees(t *testing.T) {
	const analyze = "systemd-analyze"
	if _, err := exec.LookPath(analyze); err != nil {
		t.Logf("%s is not installed here", analyze)
		return
	}
	for _, s := range servers {
		unit := filepath.Join(t.TempDir(), s.name+".service")
		text := strings.ReplaceAll(read(t, unitFile(s)), "/usr/local/bin/", bin+"/")
		if err := os.WriteFile(unit, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput()
		if err != nil || strings.Contains(string(out), filepath.Base(unit)) {
			t.Errorf("verify %s: %v\n%s", s.name, err, out)
		}
		// Out of 100, where less is better; an unprotected service has 96.
		out, err = exec.Command(analyze, "security", "--offline=true", "--no-pager", "--threshold=20", unit).CombinedOutput()
		if err != nil {
			t.Errorf("security of %s: %v\n%s", s.name, err, out)
		}
	}
}

func unitFile(s server) string { return "deployments/systemd/" + s.name + ".service" }

// commands are what the server's unit runs.
func commands(t *testing.T, s server) []string {
	t.Helper()
	service := parseUnit(t, s)["Service"]
	return slices.Concat(service["ExecStartPre"], service["ExecStart"])
}

// unit is what a unit file says: the values of each directive, by section.
type unit map[string]map[string][]string

// parseUnit reads the form that our units keep to: no continued lines, and
// every directive is a known one.
func parseUnit(t *testing.T, s server) unit {
	t.Helper()
	u, section := unit{}, ""
	for n, line := range strings.Split(read(t, unitFile(s)), "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			continue
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
			if directives[section] == nil || u[section] != nil {
				t.Errorf("%s:%d: section %s", unitFile(s), n+1, section)
			}
			u[section] = map[string][]string{}
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || !slices.Contains(directives[section], name) || strings.HasSuffix(value, `\`) {
			t.Errorf("%s:%d: %q", unitFile(s), n+1, line)
			continue
		}
		u[section][name] = append(u[section][name], value)
	}
	if len(u) != len(directives) {
		t.Errorf("%s has the sections %v", unitFile(s), u)
	}
	return u
}
