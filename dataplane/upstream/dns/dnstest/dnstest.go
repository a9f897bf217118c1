// Package dnstest is a server of DNS whose records tests set.
package dnstest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// maxPacket is what an answer over UDP may have without being cut off.
const maxPacket = 512

// Server answers for some names. It is safe for concurrent use.
type Server struct {
	mu     sync.Mutex
	names  map[string]record
	broken bool
	asked  map[string]int
}

type record struct {
	ttl     uint32
	alias   string
	address []netip.Addr
}

// New returns a Server that knows no names.
func New() *Server { return &Server{names: map[string]record{}, asked: map[string]int{}} }

// Set has host stand for addresses, for ttl seconds.
func (s *Server) Set(host string, ttl uint32, addresses ...string) {
	r := record{ttl: ttl}
	for _, a := range addresses {
		r.address = append(r.address, netip.MustParseAddr(a))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[host] = r
}

// Alias has host stand for another, for ttl seconds.
func (s *Server) Alias(host string, ttl uint32, other string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[host] = record{ttl: ttl, alias: other}
}

// Forget has host not exist.
func (s *Server) Forget(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.names, host)
}

// Break has the server fail at all questions, or answer again.
func (s *Server) Break(broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = broken
}

// Asked returns how often host's IPv4 addresses were asked for.
func (s *Server) Asked(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[host]
}

// Dial connects to the server without a network, whatever the address: what is sent is
// as over TCP.
func (s *Server) Dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go s.stream(server)
	return client, nil
}

// Listen serves UDP and TCP on one loopback address until ctx ends, and returns how to
// dial it, whatever the address.
func (s *Server) Listen(ctx context.Context) (dial func(context.Context, string, string) (net.Conn, error), err error) {
	packets, streams, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	at := packets.LocalAddr().String()
	context.AfterFunc(ctx, func() {
		_ = packets.Close()
		_ = streams.Close()
	})
	go s.packets(packets)
	go func() {
		for {
			conn, err := streams.Accept()
			if err != nil {
				return
			}
			go s.stream(conn)
		}
	}()
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, at)
	}, nil
}

// listen tries again where a port that is free for UDP is not for TCP.
func listen(ctx context.Context) (packets net.PacketConn, streams net.Listener, err error) {
	var lc net.ListenConfig
	for range 20 {
		if packets, err = lc.ListenPacket(ctx, "udp", "127.0.0.1:0"); err != nil {
			return nil, nil, err
		}
		if streams, err = lc.Listen(ctx, "tcp", packets.LocalAddr().String()); err == nil {
			return packets, streams, nil
		}
		_ = packets.Close()
	}
	return nil, nil, err
}

func (s *Server) packets(conn net.PacketConn) {
	b := make([]byte, maxPacket)
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		answer, err := s.answer(b[:n], maxPacket)
		if err != nil {
			continue
		}
		_, _ = conn.WriteTo(answer, from)
	}
}

func (s *Server) stream(conn net.Conn) {
	defer conn.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		question := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, question); err != nil {
			return
		}
		answer, err := s.answer(question, 1<<16-1)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil { //nolint:gosec // of at most 1<<16-1 bytes
			return
		}
	}
}

// answer answers a question in at most as many bytes as given, cut off if need be.
func (s *Server) answer(question []byte, most int) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(question)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, RecursionDesired: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	m.Answers, m.RCode = s.look(q)
	packed, err := m.Pack()
	if err == nil && len(packed) > most {
		m.Truncated, m.Answers = true, nil
		packed, err = m.Pack()
	}
	if err != nil {
		return nil, fmt.Errorf("pack answer: %w", err)
	}
	return packed, nil
}

func (s *Server) look(q dnsmessage.Question) (found []dnsmessage.Resource, code dnsmessage.RCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	host := strings.TrimSuffix(q.Name.String(), ".")
	if q.Type == dnsmessage.TypeA {
		s.asked[host]++
	}
	if s.broken {
		return nil, dnsmessage.RCodeServerFailure
	}
	r, known := s.names[host]
	if !known {
		return nil, dnsmessage.RCodeNameError
	}
	name := q.Name
	if r.alias != "" {
		other := dnsmessage.MustNewName(r.alias + ".")
		found = append(found, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: name, Class: q.Class, TTL: r.ttl}, Body: &dnsmessage.CNAMEResource{CNAME: other},
		})
		name, r = other, s.names[r.alias]
	}
	for _, a := range r.address {
		header := dnsmessage.ResourceHeader{Name: name, Class: q.Class, TTL: r.ttl}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			found = append(found, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			found = append(found, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return found, dnsmessage.RCodeSuccess
}
