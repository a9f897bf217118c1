package gateway_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/dataplane/gateway"
)

// beAccepting is an upstream that accepts WebSockets, and says nothing.
func beAccepting() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = ln.Close()
	}()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			r, err := http.ReadRequest(bufio.NewReaderSize(conn, 4096))
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
				gateway.AcceptFor(r.Header.Get("Sec-Websocket-Key")))
			_, _ = io.Copy(io.Discard, conn)
		}()
	}
}

// beOpening opens as many WebSockets as it is told, and keeps them.
func beOpening() {
	var kept []net.Conn
	for in := json.NewDecoder(os.Stdin); ; {
		var l load
		if err := in.Decode(&l); err != nil {
			return
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(l.CA)
		for range l.Connections {
			conn, err := tls.Dial("tcp", l.Address, &tls.Config{RootCAs: roots, ServerName: host, NextProtos: []string{"http/1.1"}})
			check(err)
			_, err = io.WriteString(conn, strings.ReplaceAll(get, "TOKEN", l.Token)+shake+browserFields+"\r\n")
			check(err)
			res, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
			check(err)
			if res.StatusCode != http.StatusSwitchingProtocols {
				panic(res.Status)
			}
			kept = append(kept, conn)
		}
		fmt.Println(len(kept), "are open")
	}
}

// browserFields are what a browser sends besides.
const browserFields = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\n" +
	"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nOrigin: https://shop.example\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n"

// BenchmarkOpenWebSockets is what an idle WebSocket takes of the gateway's memory: of
// its heap and of its stacks.
func BenchmarkOpenWebSockets(b *testing.B) {
	for _, all := range []int{1000, 9500} {
		b.Run(strconv.Itoa(all), func(b *testing.B) { measureWebSockets(b, all) })
	}
}

func measureWebSockets(b *testing.B, all int) {
	w := newWorld(b, options{writer: file(b)})
	heard := func(from *bufio.Reader) string {
		line, err := from.ReadString('\n')
		w.must(err)
		return strings.TrimSpace(line)
	}
	_, upstream := child(b, "accepting")
	w.apply(w.sockets(plaintext(heard(upstream))))
	send, said := child(b, "opening")
	ask := func(n int) {
		w.must(json.NewEncoder(send).Encode(load{
			Address: w.address("edge/public"), Token: w.tokens.sign(nil), CA: w.issuer.ServerCAPEM(), Connections: n,
		}))
		heard(said)
	}
	ask(10)
	before := inUse()
	ask(all)
	per := (inUse() - before) / uint64(all)
	if n := len(w.gateway.DecideAgain()); n != all+10 {
		b.Fatalf("%d are open", n)
	}
	fmt.Printf("figure memory_per_websocket_of_%d %.1f KiB\n", all, float64(per)/1024)
}

// inUse is the memory of heap and stacks.
func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
