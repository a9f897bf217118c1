package dataplane_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/dataplane"
)

// file writes a file of the test.
func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func publicPEM(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

var rootKey = ed25519.NewKeyFromSeed(slices.Repeat([]byte{1}, ed25519.SeedSize)).Public()

// least are settings with nothing that may be left out.
func least() map[string]any {
	return map[string]any{
		"control_planes":   []string{"https://controlplane.example:8444"},
		"control_plane_id": "spiffe://prod.example/sallyport/control",
		"root_public_key":  base64.StdEncoding.EncodeToString(rootKey.(ed25519.PublicKey)),
		"workload":         map[string]any{"socket": "/run/spire/agent/public/api.sock", "trust_domain": "prod.example"},
		"state_directory":  "/var/lib/sallyport-proxy",
	}
}

func load(t *testing.T, settings map[string]any) (dataplane.Settings, error) {
	t.Helper()
	b, err := yaml.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	return dataplane.LoadSettings(file(t, "proxy.yaml", string(b)))
}

func TestLeastSettings(t *testing.T) {
	s, err := load(t, least())
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil || s.Instance != host {
		t.Errorf("instance is %q, want the host name %q, %v", s.Instance, host, err)
	}
}

func TestAllSettings(t *testing.T) {
	all := least()
	delete(all, "root_public_key")
	all["root_public_key_file"] = file(t, "root.pem", publicPEM(t, rootKey))
	all["instance"] = "edge-7.eu_west"
	all["admin"] = map[string]any{"address": "127.0.0.1:9091"}
	all["records"] = "/var/log/sallyport/decisions.jsonl"
	if _, err := load(t, all); err != nil {
		t.Error(err)
	}
	all["state_key_file"] = file(t, "state-key", base64.StdEncoding.EncodeToString(make([]byte, 32)))
	all["bundle"] = map[string]any{"environment": "aws-prod", "url": "https://bundles.example/aws-prod", "ca_file": "/etc/sallyport/ca.pem"}
	all["geo"] = map[string]any{"databases": []string{"/var/lib/GeoIP/City.mmdb", "/var/lib/GeoIP/ASN.mmdb"}, "max_age_days": 40}
	all["collector"] = map[string]any{"endpoint": "http://127.0.0.1:4318/v1/logs", "authorization_file": "/etc/sallyport/authorization"}
	all["traces"] = map[string]any{"endpoint": "http://127.0.0.1:4318/v1/traces", "authorization_file": "/etc/sallyport/authorization", "ratio": 0.01, "sampled_from": []string{"10.0.0.0/8", "fd00::/8"}}
	all["access_log"] = map[string]any{"file": "stdout", "fields": []string{"time", "request_header.x-request-id"}}
	all["place"] = map[string]any{"cloud": "aws", "region": "eu-central-1"}
	all["overload"] = map[string]any{"disabled": false, "delay_ms": 250}
	all["records"] = "stdout"
	all["limits"] = map[string]any{"redis": map[string]any{"address": "127.0.0.1:6379", "username": "sallyport", "password_file": "/etc/sallyport/redis-password"}}
	if _, err := load(t, all); err != nil {
		t.Error(err)
	}
}

func TestSettingsThatAreWrong(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	for _, c := range []struct {
		key   string
		value any
		want  string
	}{
		{"instance", "a b", "instance: "},
		{"instance", strings.Repeat("a", 254), "instance: "},
		{"control_planes", nil, "control_planes: is required"},
		{"control_planes", []string{"https://a:1", "http://b:1"}, "control_planes[1]: "},
		{"control_plane_id", nil, "control_plane_id: is required"},
		{"control_plane_id", "https://controlplane.example", "control_plane_id: "},
		{"control_plane_id", "spiffe://prod.example", "control_plane_id: "},
		{"root_public_key", nil, "root_public_key: give it"},
		{"root_public_key", "AAAA", "root_public_key: is not the base64 of 32 bytes"},
		{"root_public_key", "!", "root_public_key: is not the base64 of 32 bytes"},
		{"root_public_key_file", file(t, "root.pem", publicPEM(t, rootKey)), "not both"},
		{"workload", map[string]any{}, "workload.socket: is required"},
		{"workload", map[string]any{"socket": "api.sock", "trust_domain": "prod.example"}, "workload.socket: "},
		{"workload", map[string]any{"socket": "/s", "trust_domain": "spiffe://prod.example"}, "workload.trust_domain: "},
		{"state_directory", nil, "state_directory: is required"},
		{"state_directory", "state", "state_directory: "},
		{"zone", "eu/a/1", "zone: "},
		{"state_key_file", "state-key", "state_key_file: "},
		{"state_key_file", "/nowhere/state-key", "state_key_file: "},
		{"state_key_file", file(t, "short", "AAAA"), "state_key_file: "},
		{"state_key_file", least()["state_directory"].(string) + "/key", "state_key_file: lies in the state directory"},
		{"bundle", map[string]any{"file": "/b"}, "bundle: environment: "},
		{"bundle", map[string]any{"environment": "aws-prod", "url": "http://b.example/b"}, "bundle: url: "},
		{"bundle", map[string]any{"environment": "aws-prod", "file": "b"}, "bundle: file: "},
		{"zone", "/a", "zone: "},
		{"place", map[string]any{"cloud": "a b"}, "place.cloud: "},
		{"place", map[string]any{"region": strings.Repeat("a", 64)}, "place.region: "},
		{"admin", map[string]any{"address": "localhost"}, "admin.address: "},
		{"limits", redisOf("address", "redis.example"), "limits.redis.address: "},
		{"limits", redisOf("address", "redis.example:6379"), "limits.redis.ca_file: is required"},
		{"limits", redisOf("address", "192.0.2.1:6379", "password_file", "/p"), "limits.redis.ca_file: is required"},
		{"limits", redisOf("address", "redis.example:6379", "ca_file", "/nowhere/ca.pem"), "limits.redis.ca_file: "},
		{"limits", redisOf("address", "redis.example:6379", "ca_file", file(t, "ca.pem", "nothing")), "limits.redis.ca_file: holds no certificate"},
		{"limits", redisOf("address", "localhost:6379", "username", "a"), "limits.redis.password_file: is required"},
		{"limits", redisOf("address", "localhost:6379", "password_file", "a"), "limits.redis.password_file: "},
		{"limits", redisOf("username", "a"), "limits.redis.address: is required"},
		{"admin", map[string]any{"address": "localhost:http!"}, "admin.address: "},
		{"records", "decisions.jsonl", "records: "},
		{"collector", map[string]any{"endpoint": "http://collector.example:4318/v1/logs"}, "collector.endpoint: "},
		{"collector", map[string]any{"endpoint": "https://c.example/v1/logs", "ca_file": "ca.pem"}, "collector.ca_file: "},
		{"collector", map[string]any{"authorization_file": "/a"}, "collector.authorization_file: is for a collector, and there is no endpoint"},
		{"traces", map[string]any{"endpoint": "http://collector.example:4318/v1/traces", "ratio": 1}, "traces.endpoint: "},
		{"access_log", map[string]any{"file": "access.jsonl"}, "access_log.file: "},
		{"access_log", map[string]any{"fields": []string{"time"}}, "access_log.file: is required"},
		{"access_log", map[string]any{"file": "stdout", "fields": []string{"when"}}, "access_log.fields: "},
		{"overload", map[string]any{"delay_ms": -1}, "overload.delay_ms: "},
		{"overload", map[string]any{"delay_ms": 10_001}, "overload.delay_ms: "},
		{"overload", map[string]any{"disabled": true, "delay_ms": 1}, "overload.disabled: is given with delay_ms"},
		{"traces", map[string]any{"ratio": 1}, "traces.endpoint: is required"},
		{"traces", map[string]any{"endpoint": "https://c.example/v1/traces"}, "traces.ratio: is required, or sampled_from"},
		{"traces", map[string]any{"endpoint": "https://c.example/v1/traces", "ratio": 1.5}, "traces.ratio: has to be from 0 to 1"},
		{"traces", map[string]any{"endpoint": "https://c.example/v1/traces", "ratio": 1, "ca_file": "ca.pem"}, "traces.ca_file: "},
		{"traces", map[string]any{"endpoint": "https://c.example/v1/traces", "sampled_from": []string{"10.0.0.1/8"}}, "traces.sampled_from: "},
		{"geo", map[string]any{"databases": []string{"/a", "City.mmdb"}}, "geo.databases[1]: "},
		{"geo", map[string]any{"databases": []string{"/a", "/b", "/a"}}, "geo.databases[2]: is given twice"},
		{"geo", map[string]any{"databases": []string{"/a", "/b", "/c", "/d"}}, "geo.databases: 4 files: more than 3"},
		{"geo", map[string]any{"max_age_days": -1}, "geo.max_age_days: "},
		{"geo", map[string]any{"max_age_days": 367}, "geo.max_age_days: "},
		{"policy", "allow all", `policy: is no key here`},
		{"workload", map[string]any{"socket": "/s", "trust_domain": "prod.example", "sockets": 1}, `workload.sockets: is no key here`},
	} {
		s := least()
		if s[c.key] = c.value; c.value == nil {
			delete(s, c.key)
		}
		if _, err := load(t, s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v: got %v, want %q", c.key, c.value, err, c.want)
		}
	}
	for name, content := range map[string]string{
		"no PEM":        "AAAA",
		"a private key": private,
		"another kind":  publicPEM(t, p384.Public()),
		"rubbish":       string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})),
	} {
		s := least()
		delete(s, "root_public_key")
		s["root_public_key_file"] = file(t, "root.pem", content)
		if _, err := load(t, s); err == nil || !strings.Contains(err.Error(), "root_public_key: ") {
			t.Errorf("a key file with %s: %v", name, err)
		}
	}
}

// A fleet may have begun with a key in hardware that knows no Ed25519.
func TestRootOnP256(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := least()
	delete(s, "root_public_key")
	s["root_public_key_file"] = file(t, "root.pem", publicPEM(t, p256.Public()))
	if _, err := load(t, s); err != nil {
		t.Error(err)
	}
}

// Who mends settings sees everything that is wrong with them.
func TestAllProblemsAtOnce(t *testing.T) {
	_, err := load(t, map[string]any{
		"instance": "-", "records": "x", "admin": map[string]any{"address": "x", "adr": "y"}, "colour": "a",
		"stop": map[string]any{"notice_seconds": 301, "drain_seconds": -1},
	})
	for _, key := range []string{": admin.adr: is no key here", ": colour: is no key here"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%q is not among the problems:\n%v", key, err)
		}
	}
	for _, field := range []string{
		"instance", "control_planes", "control_plane_id", "root_public_key", "workload.socket", "workload.trust_domain",
		"state_directory", "admin.address", "records", "stop.notice_seconds", "stop.drain_seconds",
	} {
		if err == nil || !strings.Contains(err.Error(), "\n"+field+": ") {
			t.Errorf("%s is not among the problems:\n%v", field, err)
		}
	}
}

func TestSettingsFilesAreBounded(t *testing.T) {
	path := file(t, "proxy.yaml", "# "+strings.Repeat("x", 1<<20))
	if _, err := dataplane.LoadSettings(path); err == nil || !strings.Contains(err.Error(), fmt.Sprint(1<<20)) {
		t.Errorf("a file of more than 1 MiB: %v", err)
	}
}

func redisOf(pairs ...string) map[string]any {
	r := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		r[pairs[i]] = pairs[i+1]
	}
	return map[string]any{"redis": r}
}
