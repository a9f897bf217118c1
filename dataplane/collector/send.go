package collector

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// sendWithin bounds an attempt, with its connection.
	sendWithin = 10 * time.Second
	// maxAnswer bounds what is read of an answer, and maxFile a file that is named
	// by settings, in bytes.
	maxAnswer = 64 << 10
	maxFile   = 1 << 20
)

// errRefused says that sending the same again is of no use.
var errRefused = errors.New("the collector does not take it")

// verification verifies a collector by the certificates of a file, or else by the
// system's.
func verification(file string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if file == "" {
		return c, nil
	}
	pem, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("read certificates that verify the collector: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("there is no certificate in %s", file)
	}
	return c, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// send sends a batch, and returns how many of it the collector did not keep.
func (q *Queue) send(ctx context.Context, items [][]byte) (rejected int, err error) {
	body, err := q.cfg.Encode(items)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errRefused, err)
	}
	ctx, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, q.cfg.Address.Endpoint, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("User-Agent", "sallyport-proxy")
	if q.cfg.Address.AuthorizationFile != "" {
		text, err := readFile(q.cfg.Address.AuthorizationFile)
		if err != nil {
			return 0, fmt.Errorf("read the authorization for the collector: %w", err)
		}
		req.Header.Set("Authorization", strings.TrimSpace(string(text)))
	}
	res, err := q.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return 0, err
	}
	if err := meaning(res.StatusCode); err != nil {
		return 0, err
	}
	return partial(answer), nil
}

// meaning says what a status means: which may be tried again is said by the protocol,
// and that of a credential which may be mended is tried again as well.
func meaning(status int) error {
	switch status {
	case http.StatusOK:
		return nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return fmt.Errorf("the collector answered %d", status)
	}
	return fmt.Errorf("%w: it answered %d", errRefused, status)
}

// partial reads how many items were rejected of an ExportLogsServiceResponse, or that
// of another signal: partial_success.rejected_log_records, whose numbers are those of
// all signals. What cannot be read is none.
func partial(answer []byte) int {
	inner, ok := field(answer, protowire.BytesType)
	if !ok {
		return 0
	}
	success, n := protowire.ConsumeBytes(inner)
	if n < 0 {
		return 0
	}
	count, ok := field(success, protowire.VarintType)
	if !ok {
		return 0
	}
	rejected, n := protowire.ConsumeVarint(count)
	if n < 0 {
		return 0
	}
	return int(min(rejected, batchItems))
}

// field returns what stands behind the tag of field 1, if it is of a type.
func field(message []byte, of protowire.Type) ([]byte, bool) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, false
		}
		message = message[n:]
		if number == 1 && kind == of {
			return message, true
		}
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return nil, false
		}
		message = message[n:]
	}
	return nil, false
}
