package fleet

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Description is what other programs need to use a running fleet: the content
// of DIR/demo.json. Paths are absolute.
type Description struct {
	ControlPlane string `json:"control_plane"`
	// Status is where it serves /healthz, /readyz and /metrics.
	Status         string  `json:"status"`
	CAFile         string  `json:"ca_file"`
	WorkloadSocket string  `json:"workload_socket"`
	TokenIssuer    string  `json:"token_issuer"`
	Proxies        []Proxy `json:"proxies"`
	// Client is an X.509-SVID for calls to proxies.
	Client Certificate `json:"client"`
	// Operator is an X.509-SVID of an administrator, for curl.
	Operator Certificate `json:"operator"`
}

// Proxy is where a proxy of the fleet listens.
type Proxy struct {
	Name        string `json:"name"`
	Environment string `json:"environment"`
	URL         string `json:"url"`
	// Status is where it serves /healthz, /readyz and /metrics.
	Status string `json:"status"`
}

// Variable returns the name of the shell variable that holds the proxy's URL:
// its cloud, as in AWS.
func (p Proxy) Variable() string {
	cloud, _, _ := strings.Cut(p.Environment, "-")
	return strings.ToUpper(cloud)
}

// Certificate names PEM files.
type Certificate struct {
	SPIFFEID        string `json:"spiffe_id"`
	CertificateFile string `json:"certificate_file"`
	PrivateKeyFile  string `json:"private_key_file"`
}

const descriptionFile = "demo.json"

// Read returns the description of the fleet that runs in dir.
func Read(dir string) (Description, error) {
	b, err := os.ReadFile(filepath.Join(dir, descriptionFile))
	if err != nil {
		return Description{}, fmt.Errorf("is a demo running in %s? %w", dir, err)
	}
	var d Description
	if err := json.Unmarshal(b, &d); err != nil {
		return Description{}, fmt.Errorf("parse %s: %w", descriptionFile, err)
	}
	return d, nil
}

// write puts the description in place whole.
func (d Description) write(dir string) error {
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, descriptionFile)
	if err := os.WriteFile(file+".tmp", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".tmp", file)
}
