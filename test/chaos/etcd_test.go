package chaos_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/sallyport/sallyport/cmd/sallyport/fleet"
)

// memberVariable has this program be a member of an etcd: it holds a member.
const memberVariable = "SALLYPORT_CHAOS_MEMBER"

// member is what a process has to know to be a member of an etcd.
type member struct {
	Name, Dir    string
	Peer, Client string // URLs
	Cluster      string // names and peer URLs of all
}

// beMember is the whole life of a member. It ends by being killed.
func beMember(text string) int {
	var m member
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	peer, _ := url.Parse(m.Peer) // they are our own
	client, _ := url.Parse(m.Client)
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.InitialCluster = m.Name, m.Dir, m.Cluster
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.EnableGRPCGateway = false
	cfg.UnsafeNoFsync = true // nobody pulls the plug
	cfg.LogLevel = "error"
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stderr, <-server.Err())
	return 1
}

// cluster is an etcd of three members, each a process of its own, with the
// timing that etcd has by itself.
type cluster struct {
	dir       string
	processes []*fleet.Process
	members   []member
	client    *clientv3.Client // of all
}

func startCluster(t *testing.T, dir string) *cluster {
	t.Helper()
	c := &cluster{dir: dir}
	self, err := os.Executable()
	must(t, err)
	var all []string
	for i := range 3 {
		name := fmt.Sprintf("etcd-%d", i+1)
		m := member{Name: name, Dir: filepath.Join(dir, name), Peer: "http://" + free(t), Client: "http://" + free(t)}
		all = append(all, m.Name+"="+m.Peer)
		c.members = append(c.members, m)
		c.processes = append(c.processes, &fleet.Process{Label: name, Args: []string{self}, Log: filepath.Join(dir, name+".log")})
	}
	for i := range c.members {
		c.members[i].Cluster = strings.Join(all, ",")
		c.start(t, i)
		t.Cleanup(func() { _ = c.processes[i].Kill() }) // it may be dead
	}
	c.client, err = clientv3.New(clientv3.Config{Endpoints: c.endpoints(), DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { _ = c.client.Close() }) // its server may be gone
	c.awaitLeader(t)
	return c
}

// free returns a loopback address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

func (c *cluster) endpoints() (all []string) {
	for _, m := range c.members {
		all = append(all, m.Client)
	}
	return all
}

func (c *cluster) start(t *testing.T, i int) {
	t.Helper()
	text, err := json.Marshal(c.members[i])
	must(t, err)
	must(t, c.processes[i].Start(memberVariable+"="+string(text)))
}

// stopAll kills all members.
func (c *cluster) stopAll(t *testing.T) {
	t.Helper()
	for _, p := range c.processes {
		must(t, p.Kill())
	}
}

// startAll starts all members, which are dead.
func (c *cluster) startAll(t *testing.T) {
	t.Helper()
	for i := range c.members {
		c.start(t, i)
	}
	c.awaitLeader(t)
}

// data is what is done to the data of each member while all are dead.
func (c *cluster) data(t *testing.T, do func(dir string) error) {
	t.Helper()
	for _, m := range c.members {
		must(t, do(m.Dir))
	}
}

// leader returns which member leads, or -1 when none does.
func (c *cluster) leader(ctx context.Context) int {
	for i, m := range c.members {
		one, cancel := context.WithTimeout(ctx, time.Second)
		status, err := c.client.Status(one, m.Client)
		cancel()
		if err == nil && status.Leader == status.Header.GetMemberId() {
			return i
		}
	}
	return -1
}

func (c *cluster) awaitLeader(t *testing.T) int {
	t.Helper()
	leads := -1
	eventually(t, patience, func(ctx context.Context) (bool, string) {
		leads = c.leader(ctx)
		return leads >= 0, "no member leads"
	})
	return leads
}

// compact removes, until ctx ends, what was before the newest revision, again and
// again: whoever reads from further back has lost the place.
func (c *cluster) compact(ctx context.Context, times *atomic.Int64) {
	for ctx.Err() == nil {
		r, err := c.client.Get(ctx, "/sallyport/v1/compacted")
		if err == nil {
			_, err = c.client.Compact(ctx, r.Header.GetRevision())
		}
		if err == nil {
			times.Add(1)
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// replaceBy puts a copy in the place of a folder.
func replaceBy(dir, from string) error {
	return errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(from)))
}
