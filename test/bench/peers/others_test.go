//go:build peers

package peers_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	us      = "sallyport"
	nginx   = "nginx"
	haproxy = "haproxy"
	caddy   = "caddy"
)

// other is a gateway that somebody else makes.
type other struct {
	name     string
	secures  bool
	version  []string // its command
	settings func(s *stage, address string, verifier string) string
	args     func(settings string) []string
}

func others() []other {
	return []other{
		{nginx, true, []string{"nginx", "-v"}, nginxSettings, func(f string) []string { return []string{"nginx", "-e", "stderr", "-c", f} }},
		{haproxy, true, []string{"haproxy", "-v"}, haproxySettings, func(f string) []string { return []string{"haproxy", "-q", "-f", f} }},
		{caddy, false, []string{"caddy", "version"}, caddySettings, func(f string) []string {
			return []string{"caddy", "run", "--adapter", "caddyfile", "--config", f}
		}},
	}
}

// startOthers starts those that are installed.
func (s *stage) startOthers(b *testing.B) {
	b.Helper()
	for _, o := range others() {
		if _, err := exec.LookPath(o.name); err != nil {
			fmt.Printf("%s is not installed\n", o.name)
			continue
		}
		s.startOther(b, o)
	}
	if len(s.peers) < 3 {
		b.Fatal("with fewer than two other gateways there is nothing to compare with")
	}
}

func (s *stage) startOther(b *testing.B, o other) {
	b.Helper()
	p := &peer{name: o.name, secures: o.secures, address: freeAddress(b)}
	verifier := ""
	if o.name == nginx {
		b.Setenv(keyVariable, s.files.tokenKey)
		v := role(b, roleVerifier, "taskset", "-c", proxyCore) // it is a part of the work
		verifier = listening(b, v.out)
		p.pids = append(p.pids, v.pid)
	}
	file := filepath.Join(s.dir, o.name+".conf")
	must(b, os.WriteFile(file, []byte(o.settings(s, p.address, verifier)), 0o600))
	args := append([]string{"taskset", "-c", proxyCore}, o.args(file)...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "HOME="+s.dir)
	log, err := os.Create(file + ".log")
	must(b, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	run(b, cmd)
	p.pids = append(p.pids, cmd.Process.Pid)
	s.await(b, p, file+".log")
	version, err := exec.Command(o.version[0], o.version[1:]...).CombinedOutput()
	must(b, err)
	p.version, _, _ = strings.Cut(string(version), "\n")
	fmt.Printf("%-10s %s\n", p.name, p.version)
	s.peers = append(s.peers, p)
}

func (s *stage) await(b *testing.B, p *peer, log string) {
	b.Helper()
	deadline := time.After(10 * time.Second)
	for {
		c, err := net.Dial("tcp", p.address)
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-deadline:
			said, _ := os.ReadFile(log) // or nothing
			b.Fatalf("%s does not listen: %s", p.name, said)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func freeAddress(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", host+":0")
	must(b, err)
	defer ln.Close()
	return ln.Addr().String()
}

func nginxSettings(s *stage, address, verifier string) string {
	return fmt.Sprintf(`daemon off;
user root;
pid %[1]s/nginx.pid;
worker_processes 1;
error_log stderr error;
events { worker_connections %[7]d; }
http {
  access_log off;
  client_body_temp_path %[1]s/nginx-body;
  proxy_temp_path %[1]s/nginx-proxy;
  fastcgi_temp_path %[1]s/nginx-fastcgi;
  uwsgi_temp_path %[1]s/nginx-uwsgi;
  scgi_temp_path %[1]s/nginx-scgi;
  keepalive_timeout 600s;
  keepalive_requests 100000000;
  upstream api { server %[2]s; keepalive 64; keepalive_requests 100000000; }
  upstream verifier { server %[3]s; keepalive 64; keepalive_requests 100000000; }
  server {
    listen %[4]s ssl http2;
    ssl_certificate %[5]s;
    ssl_certificate_key %[6]s;
    ssl_protocols TLSv1.3;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    location / { proxy_pass http://api; }
    location /secured/ { auth_request /verify; proxy_pass http://api; }
    location = /verify {
      internal;
      proxy_pass http://verifier;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
    }
  }
}
`, s.dir, s.upstream, verifier, address, s.files.certificate, s.files.key, s.idle+spare)
}

func haproxySettings(s *stage, address, _ string) string {
	return fmt.Sprintf(`global
  nbthread 1
  maxconn %[5]d
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout client 600s
  timeout http-keep-alive 600s
  timeout server 60s
  timeout connect 5s
  http-reuse always
frontend in
  bind %[1]s ssl crt %[2]s alpn h2,http/1.1
  acl secured path_beg /secured/
  http-request set-var(txn.bearer) http_auth_bearer if secured
  http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg') if secured
  http-request deny deny_status 401 if secured !{ var(txn.alg) -m str ES256 }
  http-request deny deny_status 401 if secured !{ var(txn.bearer),jwt_verify(txn.alg,"%[3]s") -m int 1 }
  http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int') if secured
  http-request set-var(txn.now) date() if secured
  http-request deny deny_status 401 if secured { var(txn.exp),sub(txn.now) -m int lt 0 }
  default_backend api
backend api
  server one %[4]s
`, address, s.files.both, s.files.tokenKey, s.upstream, s.idle+spare/2)
}

func caddySettings(s *stage, address, _ string) string {
	return fmt.Sprintf(`{
  admin off
  auto_https off
  servers {
    protocols h1 h2
  }
}
https://%[1]s {
  tls %[2]s %[3]s {
    protocols tls1.3
  }
  reverse_proxy %[4]s
}
`, address, s.files.certificate, s.files.key, s.upstream)
}
