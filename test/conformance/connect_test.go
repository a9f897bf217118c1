//go:build conformance

package conformance_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// What this test's binary is told when connectconformance starts it as the server
// that it tries.
const (
	http1Variable = "SALLYPORT_CONFORMANCE_HTTP1" // the port for clients of HTTP/1.1, and that it is to be that server
	http2Variable = "SALLYPORT_CONFORMANCE_HTTP2" // the port for clients of HTTP/2
	caVariable    = "SALLYPORT_CONFORMANCE_CA"    // the file of the authority
)

func TestMain(m *testing.M) {
	if os.Getenv(http1Variable) != "" {
		if err := beServer(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// Every case of Connect, gRPC and gRPC-Web passes through a proxy, over HTTP/1.1
// and HTTP/2, with every codec and compression, to a server of the same version
// and to one of the other.
func TestConnect(t *testing.T) {
	s := begin(t)
	aws, gcp := s.fleet.Members[0], s.fleet.Members[1]
	paths := []string{"/connectrpc.conformance.v1.ConformanceService/**"}
	s.apply(t,
		upstream{"http1", s.reference(t, http1), s.secure(), aws, paths},
		upstream{"http2", s.reference(t, http2), s.secure(), gcp, paths},
	)
	t.Run("same", func(t *testing.T) {
		figure("conformance_cases", s.connect(t, "all.yaml", aws, gcp), "cases")
	})
	t.Run("crossed", func(t *testing.T) {
		figure("conformance_cases_crossed", s.connect(t, "crossed.yaml", gcp, aws), "cases")
	})
}

var passed = regexp.MustCompile(`(?m)^Total cases: (\d+)\n(\d+) passed, 0 failed$`)

// connect runs connectconformance with a proxy for the clients of each version, and
// returns how many cases there were, all of which passed.
func (s *stage) connect(t *testing.T, config string, first, second *fleet.Member) int {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	env := []string{
		http1Variable + "=" + s.port(t, first), http2Variable + "=" + s.port(t, second),
		caVariable + "=" + s.fleet.Described.CAFile,
	}
	out, err := s.run(t, env, "connectconformance", "--mode", "server", "--conf", filepath.Join("testdata", config), "--", self)
	found := passed.FindStringSubmatch(out)
	if err != nil || found == nil || found[1] != found[2] {
		t.Fatalf("%v\n%s", err, out)
	}
	n, err := strconv.Atoi(found[1])
	must(t, err)
	return n
}

const host = "127.0.0.1"

// Versions of HTTP, as the suite's config.proto numbers them.
const (
	http1 = 1
	http2 = 2
)

// Fields of the suite's server_compat.proto.
const (
	requestVersion = 2
	requestTLS     = 4
	requestLimit   = 6

	responseHost = 1
	responsePort = 2
	responseCert = 3
)

// receiveLimit is that of the server which the suite would start itself, in bytes.
const receiveLimit = 200 << 10

// reference starts the reference server of a version, and returns its address.
func (s *stage) reference(t *testing.T, version uint64) string {
	t.Helper()
	in, writes, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { _, _ = in.Close(), writes.Close() })
	out := s.keep(t, in, "referenceserver", "-bind", host, "-port", "0",
		"-cert", s.fleet.Path("proxy-tls.pem"), "-key", s.fleet.Path("proxy-tls-key.pem"))
	var request []byte
	for field, value := range map[protowire.Number]uint64{requestVersion: version, requestTLS: 1, requestLimit: receiveLimit} {
		request = protowire.AppendVarint(protowire.AppendTag(request, field, protowire.VarintType), value)
	}
	must(t, writeMessage(writes, request))
	response, err := readMessage(out)
	must(t, err)
	return net.JoinHostPort(host, strconv.FormatUint(varint(response, responsePort), 10))
}

// varint returns the number in a field of a message; zero where there is none.
func varint(message []byte, field protowire.Number) uint64 {
	for len(message) > 0 {
		found, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return 0
		}
		message = message[n:]
		if found == field && kind == protowire.VarintType {
			value, _ := protowire.ConsumeVarint(message)
			return value
		}
		if n = protowire.ConsumeFieldValue(found, kind, message); n < 0 {
			return 0
		}
		message = message[n:]
	}
	return 0
}

// beServer tells connectconformance where the proxy is that has the server behind
// it. Clients without TLS get a tunnel that adds it: a proxy has no other listeners.
func beServer() error {
	request, err := readMessage(os.Stdin)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(os.Getenv(caVariable))
	if err != nil {
		return err
	}
	port, protocol := os.Getenv(http1Variable), "http/1.1"
	if varint(request, requestVersion) == http2 {
		port, protocol = os.Getenv(http2Variable), "h2"
	}
	if varint(request, requestTLS) == 0 {
		if port, err = tunnel(net.JoinHostPort(host, port), ca, protocol); err != nil {
			return err
		}
		ca = nil
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	response := protowire.AppendString(protowire.AppendTag(nil, responseHost, protowire.BytesType), host)
	response = protowire.AppendVarint(protowire.AppendTag(response, responsePort, protowire.VarintType), number)
	response = protowire.AppendBytes(protowire.AppendTag(response, responseCert, protowire.BytesType), ca)
	if err := writeMessage(os.Stdout, response); err != nil {
		return err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, os.Interrupt)
	<-ended
	return nil
}

// tunnel carries what is said in plain text through TLS to address, for as long as
// the process lives.
func tunnel(address string, ca []byte, protocol string) (port string, err error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return "", errors.New("no authority")
	}
	cfg := &tls.Config{RootCAs: roots, NextProtos: []string{protocol}}
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", host+":0")
	if err != nil {
		return "", err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go carry(conn.(*net.TCPConn), address, cfg)
		}
	}()
	_, port, err = net.SplitHostPort(ln.Addr().String())
	return port, err
}

func carry(client *net.TCPConn, address string, cfg *tls.Config) {
	defer client.Close()
	proxy, err := tls.Dial("tcp", address, cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer proxy.Close()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = io.Copy(client, proxy)
		_ = client.CloseWrite()
	}()
	// A client that still sends is listened to, or it would lose its answer.
	_, _ = io.Copy(proxy, client)
	_ = proxy.CloseWrite()
	<-answered
}
