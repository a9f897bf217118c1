package request

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// The fields of a WebSocket's handshake that are read here (RFC 6455, section
// 4.2.1), beside Connection and Upgrade.
const (
	headerKey     = "Sec-Websocket-Key"
	headerVersion = "Sec-Websocket-Version"
)

// checkHandshake reads a request for another protocol, of which there is one
// that is spoken: WebSocket, in the one way in which every server sees the same
// handshake.
func checkHandshake(method string, header map[string][]string) *Error {
	upgrade, length := header["Upgrade"], header["Content-Length"]
	switch {
	case len(upgrade) != 1 || !strings.EqualFold(upgrade[0], "websocket"):
		return refuse(ReasonUpgrade, "the only protocol that a connection can be changed to is WebSocket")
	case method != http.MethodGet:
		return refuse(ReasonWebSocket, "a WebSocket begins with GET")
	case !lists(header["Connection"], "upgrade"):
		return refuse(ReasonWebSocket, "Connection does not name Upgrade")
	case header["Transfer-Encoding"] != nil || len(length) > 0 && length[0] != "0":
		return refuse(ReasonWebSocket, "a WebSocket begins without a body")
	case len(header[headerVersion]) != 1 || header[headerVersion][0] != "13":
		return refuse(ReasonWebSocket, "the only version of WebSocket is 13")
	case len(header[headerKey]) != 1 || !isKey(header[headerKey][0]):
		return refuse(ReasonWebSocket, "the key of a WebSocket is not 16 bytes in base64")
	}
	return nil
}

// isKey reports whether s is base64 of 16 bytes, in its one spelling.
func isKey(s string) bool {
	key, err := base64.StdEncoding.Strict().DecodeString(s)
	return err == nil && len(key) == 16 && len(s) == 24
}

// lists reports whether a list of tokens holds one, in whatever case.
func lists(values []string, token string) bool {
	for _, value := range values {
		for option := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.Trim(option, " \t"), token) {
				return true
			}
		}
	}
	return false
}
