package fleet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"

	"github.com/sallyport/sallyport/internal/identity"
)

// startSamples starts two APIs: orders, which only proxies may call and which
// proves its own SPIFFE identity, and inventory, plain HTTP on the loopback
// address.
func (f *Fleet) startSamples(ctx context.Context) error {
	socket, err := f.inside(ctx, OrdersID, "orders")
	if err != nil {
		return err
	}
	addr, err := identity.SocketAddr(socket)
	if err != nil {
		return err
	}
	source, err := identity.New(identity.Config{SocketAddr: addr, TrustDomain: TrustDomain, Log: f.log})
	if err != nil {
		return err
	}
	f.background(source.Run)
	for _, name := range []string{"orders", "inventory"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		var wrap func(net.Listener) net.Listener
		if name == "orders" {
			wrap = func(ln net.Listener) net.Listener {
				return tls.NewListener(ln, identity.ServerConfig(source, identity.Member(TrustDomain)))
			}
		}
		f.serve(ln, api(name), wrap)
		f.samples = append(f.samples, sample{name: name, address: ln.Addr().String()})
	}
	return nil
}

// api answers every request with what arrived.
func api(name string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		peer := ""
		if id, err := identity.PeerID(r.TLS); err == nil {
			peer = string(id)
		}
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(map[string]string{ // the proxy is gone
			"api": name, "method": r.Method, "path": r.URL.EscapedPath(), "proxy": peer,
		})
	})
}
