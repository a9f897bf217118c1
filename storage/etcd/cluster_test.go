package etcd_test

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// memberVariable has this program be a member of an etcd: what it holds are name,
// directory, the URLs for clients and for peers, and those of all peers by name.
const memberVariable = "SALLYPORT_TEST_ETCD_MEMBER"

// beMember is the whole life of a member. It ends by being killed, or with the test.
func beMember(text string) int {
	over := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		over <- err
	}()
	told := strings.Split(text, " ")
	client, _ := url.Parse(told[2]) // they are our own
	peer, _ := url.Parse(told[3])
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.InitialCluster = told[0], told[1], told[4]
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.QuotaBackendBytes, cfg.UnsafeNoFsync, cfg.LogLevel = 32<<20, true, "panic"
	server, err := embed.StartEtcd(cfg)
	if err == nil {
		select {
		case err = <-server.Err():
		case err = <-over:
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// cluster is an etcd of three members, each a process, with a small quota.
func cluster(t *testing.T) (kill []func(), endpoints []string) {
	t.Helper()
	var members, peers []string
	for i := range 3 {
		name, client, peer := fmt.Sprint("member-", i), "http://"+loopback(t), "http://"+loopback(t)
		members, peers = append(members, strings.Join([]string{name, t.TempDir(), client, peer}, " ")), append(peers, name+"="+peer)
		endpoints = append(endpoints, client)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		c := exec.Command(self)
		c.Env, c.Stderr = append(os.Environ(), memberVariable+"="+m+" "+strings.Join(peers, ",")), os.Stderr
		_, err := c.StdinPipe() // which closes when this process ends
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		end := sync.OnceFunc(func() { _, _ = c.Process.Kill(), c.Wait() })
		t.Cleanup(end)
		kill = append(kill, end)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, endpoint := range endpoints {
		eventually(t, endpoint+" is there", func() bool { r, err := client.Status(t.Context(), endpoint); return err == nil && r.Leader != 0 })
	}
	return kill, endpoints
}

// loopback is an address of this machine that nobody listens on.
func loopback(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
