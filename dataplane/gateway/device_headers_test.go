package gateway_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
)

// What a request says of its device in fields of its own is said by anybody: it makes
// it no device's, neither another device's beside one that is proven.
func TestDeviceHeadersAreNotBelieved(t *testing.T) {
	w := newWorld(t, options{})
	up := newEcho(t)
	w.apply(compliantOnly(w.usual(plaintext(up.address()))))
	laptop, phone := w.device(), w.deviceEd25519()
	w.lane(
		w.registered("laptop", "keys: ["+laptop.thumbprint()+"]", "compliant: true"),
		w.registered("phone", "keys: ["+phone.thumbprint()+"]", "compliant: false"),
	)
	certificate := base64.StdEncoding.EncodeToString(w.ca("mdm").leaf(nil).Certificate[0])
	for name, value := range map[string]string{
		"X-Device-Id": "laptop", "X-Device-Compliant": "true", "Device-Token": laptop.good(), "X-Sallyport-Device": laptop.good(),
		"Sallyport-Device-Id": "laptop", "Sallyport_Device": laptop.good(), "X-Forwarded-Client-Cert": "Hash=" + strings.Repeat("0", 64),
		"X-Ssl-Client-Cert": certificate, "Client-Cert": ":" + certificate + ":", "X-Goog-Iap-Jwt-Assertion": laptop.good(),
		"Cookie": "Sallyport-Device=" + laptop.good(), "Dpop": laptop.good(),
	} {
		for _, c := range []struct{ proven, reason, device string }{{"", "evaluation_error", ""}, {phone.good(), "no_matching_policy", "phone"}} {
			fields := http.Header{"Authorization": {"Bearer " + w.tokens.sign(nil)}, name: {value}}
			if c.proven != "" {
				fields["Sallyport-Device"] = []string{c.proven}
			}
			res, body := w.gets(asking{w.client(false, w.tls(host)), fields})
			d := w.records.of(t, "decision", res.Header.Get("Sallyport-Decision-Id"))
			if res.StatusCode != 403 || d.Reason != c.reason || d.Device != c.device {
				t.Errorf("%s, beside %q: %d %s, recorded %+v", name, c.device, res.StatusCode, body, d)
			}
		}
	}
	if n := up.requests.Load(); n != 0 {
		t.Errorf("%d requests went on", n)
	}
}
