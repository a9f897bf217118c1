package controlplane_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/controlplane"
	"github.com/sallyport/sallyport/controlplane/controlplanetest"
	"github.com/sallyport/sallyport/controlplane/hsm"
)

func TestSettingsLoad(t *testing.T) {
	p := controlplanetest.Prepare(t)
	p.Settings.Database.URLFile = file(t, "url", "postgres://sallyport@localhost/sallyport\n")
	p.Save()
	s, err := controlplane.LoadSettings(p.SettingsFile)
	if err != nil {
		t.Fatal(err)
	}
	if s.Replica != "one" || len(s.Admin.Administrators) != 4 || s.Admin.IdentityProviders[0].Audiences[0] != controlplanetest.Audience {
		t.Errorf("loaded %+v", s)
	}
	p.Settings.Replica = ""
	p.Save()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if s, err := controlplane.LoadSettings(p.SettingsFile); err != nil || s.Replica != host {
		t.Errorf("replica %q (%v), want the host's name %q", s.Replica, err, host)
	}
}

func TestSettingsThatAreWrong(t *testing.T) {
	hardware := ""
	if err := hsm.Supported(); err != nil {
		hardware = "\nsigning_key_pkcs11: " + err.Error()
	}
	foreign := controlplanetest.Prepare(t)
	for name, c := range map[string]struct {
		change func(*controlplane.Settings)
		want   string // DIR stands for where the files are
	}{
		"nothing is given": {func(s *controlplane.Settings) { *s = controlplane.Settings{Replica: "a"} }, `
workload.socket: is required
workload.trust_domain: is required
database.url_file: is required
etcd.endpoints: is required
signing_key_file: is required
admin.address: is required
admin.administrators: name at least one, or nobody can use this control plane
proxies.address: is required`},
		"files that are not there": {func(s *controlplane.Settings) {
			s.Database.URLFile, s.SigningKeyFile, s.Admin.CertificateFile = "/nowhere/url", "/nowhere/key", "/nowhere/certificate"
		}, `
database.url_file: open DIR/url: no such file or directory
signing_key_file: open DIR/key: no such file or directory
admin: open DIR/certificate: no such file or directory`},
		"files that hold something else": {func(s *controlplane.Settings) {
			s.Database.URLFile, s.SigningKeyFile = file(t, "url", " \n"), s.Admin.PrivateKeyFile
		}, `
database.url_file: DIR/url is empty
signing_key_file: is not an Ed25519 key`},
		"a file without end": {func(s *controlplane.Settings) { s.Database.URLFile = "/dev/zero" }, `
database.url_file: DIR/zero has more than 1048576 bytes`},
		"a connection string that is none": {func(s *controlplane.Settings) { s.Database.URLFile = file(t, "url", "postgres://a:secret@b:c/d") }, `
database.url_file: postgres: the connection string cannot be parsed`},
		"a connection less than none": {func(s *controlplane.Settings) { s.Database.MaxConnections = -1 }, `
database.url_file: postgres: -1 connections are out of range`},
		"no key": {func(s *controlplane.Settings) { s.SigningKeyFile = file(t, "key", "key") }, `
signing_key_file: is not a PEM file`},
		"a key in hardware": {func(s *controlplane.Settings) {
			s.SigningKeyFile, s.SigningKeyPKCS11 = "", controlplane.PKCS11{Module: "softhsm.so", Key: "a", PINFile: file(t, "pin", " \n")}
			s.Database.URLFile = s.SigningKeyPKCS11.PINFile
		}, `
database.url_file: DIR/pin is empty` + hardware + `
signing_key_pkcs11.module: "softhsm.so" is not an absolute path
signing_key_pkcs11.token: is required
signing_key_pkcs11.pin_file: DIR/pin is empty
secrets_key_file: is required with signing_key_pkcs11: nothing can be derived from a key in hardware`},
		"a key in hardware that is not there": {func(s *controlplane.Settings) {
			s.SecretsKeyFile, s.SigningKeyFile = s.SigningKeyFile, ""
			s.SigningKeyPKCS11 = controlplane.PKCS11{Module: "/nowhere/module.so", Token: "a", Key: "a", PINFile: "/nowhere/pin"}
		}, hardware + `
signing_key_pkcs11.module: stat /nowhere/module.so: no such file or directory
signing_key_pkcs11.pin_file: open /nowhere/pin: no such file or directory`},
		"two signing keys": {func(s *controlplane.Settings) { s.SigningKeyPKCS11.Token = "a" }, `
signing_key_file: give it or signing_key_pkcs11, not both`},
		"other keys that are none": {func(s *controlplane.Settings) {
			s.RootPublicKeyFile, s.SecretsKeyFile = s.SigningKeyFile, s.Admin.PrivateKeyFile
		}, `
root_public_key_file: is not a PEM file with a public key
secrets_key_file: is not an Ed25519 key`},
		"a key of another certificate": {func(s *controlplane.Settings) { s.Admin.PrivateKeyFile = foreign.Settings.Admin.PrivateKeyFile }, `
admin: tls: private key does not match public key`},
		"half a certificate": {func(s *controlplane.Settings) { s.Admin.PrivateKeyFile = "" }, `
admin: certificate_file and private_key_file go together`},
		"names that are none": {func(s *controlplane.Settings) {
			s.Replica, s.Workload.Socket, s.Workload.TrustDomain = "a b", "sock", "Prod.example"
		}, `
replica: is at most 255 printable characters without spaces
workload.socket: socket path "sock" is not absolute
workload.trust_domain: parse trust domain "Prod.example": trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores`},
		"addresses that are none": {func(s *controlplane.Settings) {
			s.Admin.Address, s.Proxies.Address, s.Health.Address = "8443", ":http", "127.0.0.1:70000"
		}, `
admin.address: "8443" is not host:port
proxies.address: ":http": a port is a number up to 65535
health.address: "127.0.0.1:70000": a port is a number up to 65535`},
		"etcd without encryption, with certificates": {func(s *controlplane.Settings) {
			s.Etcd = controlplane.Etcd{Endpoints: []string{"http://a:2379", ""}, CAFile: foreign.CAFile, CertificateFile: s.Admin.CertificateFile, PrivateKeyFile: s.Admin.PrivateKeyFile}
		}, `
etcd.endpoints[0]: is not https, though there are certificates
etcd.endpoints[1]: is empty`},
		"etcd with encryption, without certificates": {func(s *controlplane.Settings) {
			s.Etcd = controlplane.Etcd{Endpoints: []string{"https://a:2379"}, CAFile: foreign.CAFile}
		}, `
etcd: ca_file, certificate_file and private_key_file go together`},
		"etcd with https alone": {func(s *controlplane.Settings) { s.Etcd = controlplane.Etcd{Endpoints: []string{"https://a:2379"}} }, `
etcd.endpoints[0]: https needs ca_file, certificate_file and private_key_file`},
		"etcd with an authority that is none": {func(s *controlplane.Settings) {
			s.Etcd = controlplane.Etcd{Endpoints: []string{"https://a:2379"}, CAFile: s.SigningKeyFile, CertificateFile: s.Admin.CertificateFile, PrivateKeyFile: s.Admin.PrivateKeyFile}
		}, `
etcd: ca_file holds no certificate`},
		"targets": {func(s *controlplane.Settings) {
			there := controlplane.Etcd{Endpoints: []string{"http://b:2379", "http://a:2379"}}
			same := controlplane.Etcd{Endpoints: []string{"http://a:2379", "http://b:2379"}, Prefix: "/sallyport/v1/"}
			s.Targets = []controlplane.Target{
				{}, {Name: "etcd", Etcd: there}, {Name: "gcp", Etcd: same}, {Name: "gcp", Etcd: controlplane.Etcd{Endpoints: []string{"https://c:2379"}}},
				{Name: "Azure", Etcd: s.Etcd},
			}
			s.Election.Prefix, s.Follows = "/election", "azure"
		}, `
election.endpoints: is required
targets[0].name: is required
targets[0].etcd.endpoints: is required
targets[1].name: etcd is there twice
targets[2].etcd: is another target already
targets[3].etcd.endpoints[0]: https needs ca_file, certificate_file and private_key_file
targets[3].name: gcp is there twice
targets[4].name: is at most 63 lower-case letters, digits and hyphens
targets[4].etcd: is another target already
follows: azure is none of the targets`},
		"more targets than a publisher writes to": {func(s *controlplane.Settings) {
			for i := range 32 {
				s.Targets = append(s.Targets, controlplane.Target{
					Name: fmt.Sprint("t", i), Etcd: controlplane.Etcd{Endpoints: []string{fmt.Sprintf("http://t%d:2379", i)}},
				})
			}
		}, `
targets: are at most 31`},
		"identity providers": {func(s *controlplane.Settings) {
			s.Admin.IdentityProviders = []controlplane.IdentityProvider{
				{}, {Issuer: "a", JWKSURL: "http://login.example/keys", Audiences: []string{"a"}}, {Issuer: "a", JWKSURL: "keys", Audiences: []string{"a"}},
			}
			s.Admin.Administrators = s.Admin.Administrators[:1]
		}, `
admin.identity_providers[0].issuer: is required
admin.identity_providers[0].jwks_url: is required
admin.identity_providers[0].audiences: is required
admin.identity_providers[1].jwks_url: keys that come over http could be anybody's: use https
admin.identity_providers[2].jwks_url: "keys" is no URL of the form https://host/path
admin.identity_providers[2].issuer: a is there twice`},
		"administrators": {func(s *controlplane.Settings) {
			s.Admin.Administrators = []controlplane.Administrator{
				{SPIFFEID: "spiffe://prod.example/a", Role: "owner"}, {SPIFFEID: "prod.example/a", Role: "admin"}, {Issuer: "https://nobody.example", Subject: "a", Role: "admin"},
			}
		}, `
admin.administrators[2].issuer: https://nobody.example is none of the identity_providers
admin.administrators: administrator 0: role is viewer or admin, not "owner"
administrator 1: parse SPIFFE ID "prod.example/a": scheme is missing or invalid`},
		"an administrator of no name": {func(s *controlplane.Settings) {
			s.Admin.Administrators = []controlplane.Administrator{{Role: "admin"}, {SPIFFEID: "spiffe://prod.example/a", Issuer: s.Admin.IdentityProviders[0].Issuer, Subject: "a", Role: "admin"}}
		}, `
admin.administrators: administrator 0: name spiffe_id, or issuer and subject
administrator 1: name spiffe_id, or issuer and subject`},
	} {
		t.Run(name, func(t *testing.T) {
			p := controlplanetest.Prepare(t)
			p.Settings.Database.URLFile = file(t, "good", "postgres://sallyport@localhost/sallyport\n")
			c.change(&p.Settings)
			p.Save()
			_, err := controlplane.LoadSettings(p.SettingsFile)
			if err == nil {
				t.Fatal("they load")
			}
			got := strings.TrimPrefix(err.Error(), "settings "+p.SettingsFile+":\n")
			if i := strings.LastIndex(p.Settings.Database.URLFile, "/"); i > 0 {
				got = strings.ReplaceAll(got, p.Settings.Database.URLFile[:i], "DIR")
			}
			if got != strings.TrimSpace(c.want) {
				t.Errorf("got\n%s\nwant%s", got, c.want)
			}
		})
	}
}

// Mistakes of form do not hide those of sense.
func TestSettingsOfTheWrongForm(t *testing.T) {
	path := file(t, "controlplane.yaml", `
replica: one
databse: {url_file: /etc/sallyport/database-url}
etcd:
  endpoints: http://127.0.0.1:2379
admin:
  address: :8443
  administrator: []
`)
	_, err := controlplane.LoadSettings(path)
	want := "settings " + path + `:
line 3: databse: is no key here
line 5: etcd.endpoints: has to be a list
line 8: admin.administrator: is no key here
workload.socket: is required
workload.trust_domain: is required
database.url_file: is required
etcd.endpoints: is required
signing_key_file: is required
admin.administrators: name at least one, or nobody can use this control plane
proxies.address: is required`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if _, err := controlplane.LoadSettings(path + ".gone"); err == nil || !strings.HasPrefix(err.Error(), "read settings: open ") {
		t.Errorf("a file that is not there: %v", err)
	}
}
