package deployments_test

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/dataplane"
)

// server is one of the two, with the struct of its settings and what loads it.
type server struct {
	name     string
	settings any
	load     func(path string) error
}

// example is the server's example of a settings file.
func (s server) example() string {
	return "deployments/" + strings.TrimPrefix(s.name, "sallyport-") + ".yaml"
}

var servers = []server{
	{"sallyport-controlplane", controlplane.Settings{}, func(path string) error {
		_, err := controlplane.LoadSettings(path)
		return err
	}},
	{"sallyport-proxy", dataplane.Settings{}, func(path string) error {
		_, err := dataplane.LoadSettings(path)
		return err
	}},
}

func TestExampleSettingsLoad(t *testing.T) {
	for _, s := range servers {
		if err := s.load(installed(t, s)); err != nil {
			t.Errorf("%s: %v", s.example(), err)
		}
	}
}

// The binaries take the examples with the flags that the units give them, and
// not without the key that these name.
func TestBinariesCheckExampleSettings(t *testing.T) {
	for _, s := range servers {
		file := installed(t, s)
		for _, command := range commands(t, s) {
			args := strings.Fields(strings.ReplaceAll(command, "/etc/sallyport/"+filepath.Base(file), file))
			if args[0] != "/usr/local/bin/"+s.name || args[2] != file {
				t.Errorf("the unit of %s runs %s", s.name, command)
			}
			if !slices.Contains(args, "--check") {
				args = append(args, "--check")
			}
			if out, err := exec.Command(filepath.Join(bin, s.name), args[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", command, err, out)
			}
		}
		for _, key := range []string{"signing-key.pem", "root-public-key.pem"} {
			if err := os.Remove(filepath.Join(filepath.Dir(file), key)); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.Command(filepath.Join(bin, s.name), "--settings", file, "--check").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "no such file") {
			t.Errorf("without the key, %s says %q (%v)", s.name, out, err)
		}
	}
}

func TestExampleSettingsShowEveryKey(t *testing.T) {
	for _, s := range servers {
		var content map[string]any
		if err := yaml.Unmarshal([]byte(read(t, s.example())), &content); err != nil {
			t.Fatal(err)
		}
		shown := map[string]bool{}
		written(shown, "", content)
		for _, key := range keysOf(s.settings) {
			if !shown[key] {
				t.Errorf("%s does not show %s", s.example(), key)
			}
		}
	}
}

var key = regexp.MustCompile(`^ *(- )?[a-z_]+:( |$)`)

// In the examples every key comes after a comment: its own, or that of the key
// before, which it goes together with.
func TestExampleSettingsExplainEveryKey(t *testing.T) {
	for _, s := range servers {
		since := 9
		for n, line := range strings.Split(read(t, s.example()), "\n") {
			switch {
			case strings.HasPrefix(strings.TrimSpace(line), "#"):
				since = 0
			case key.MatchString(line):
				if since++; since > 3 {
					t.Errorf("%s:%d: %s is not explained", s.example(), n+1, strings.TrimSpace(line))
				}
			case line == "":
				since = 9
			}
		}
	}
}

// installed puts the server's example, and the files that it names, into a
// folder that stands for /etc/sallyport, and returns where.
func installed(t *testing.T, s server) string {
	t.Helper()
	dir := t.TempDir()
	public, private := signingKey(t)
	chain, key := selfSigned(t)
	for name, content := range map[string][]byte{
		filepath.Base(s.example()): []byte(strings.ReplaceAll(read(t, s.example()), "/etc/sallyport/", dir+"/")),
		"database-url":             []byte("postgres://sallyport:secret@db.prod.example:5432/sallyport?sslmode=verify-full\n"),
		"signing-key.pem":          private,
		"root-public-key.pem":      public,
		"etcd-ca.pem":              chain,
		"etcd-client.pem":          chain,
		"etcd-client-key.pem":      key,
		"admin.pem":                chain,
		"admin-key.pem":            key,
		"redis-ca.pem":             chain,
		"state-key":                []byte(base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, filepath.Base(s.example()))
}

// selfSigned makes a certificate and its key.
func selfSigned(t *testing.T) (chain, key []byte) {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// signingKey makes what docs/operations.md has openssl make: the same PEM files,
// of the same forms.
func signingKey(t *testing.T) (public, private []byte) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// keysOf returns the keys of a settings struct, as a.b and, in a list of
// mappings, a[].b.
func keysOf(settings any) []string {
	found := map[string]bool{}
	declared(found, "", reflect.TypeOf(settings))
	return slices.Sorted(maps.Keys(found))
}

func declared(to map[string]bool, path string, t reflect.Type) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(cmp.Or(f.Tag.Get("yaml"), f.Tag.Get("json")), ",")
		next, of := path+name, f.Type
		if of.Kind() == reflect.Slice {
			of = of.Elem()
			if of.Kind() == reflect.Struct {
				next += "[]"
			}
		}
		if of.Kind() == reflect.Struct {
			declared(to, next+".", of)
			continue
		}
		to[next] = true
	}
}

// written adds the keys of a file in the same form.
func written(to map[string]bool, path string, content map[string]any) {
	for name, value := range content {
		switch v := value.(type) {
		case map[string]any:
			written(to, path+name+".", v)
		case []any:
			if len(v) == 0 { // of nothing but strings
				to[path+name] = true
			}
			for _, item := range v {
				if m, ok := item.(map[string]any); ok {
					written(to, path+name+"[].", m)
				} else {
					to[path+name] = true
				}
			}
		default:
			to[path+name] = true
		}
	}
}
