package fleet

import (
	"context"
	"errors"
	"fmt"
)

// Replica is one of the control plane of a fleet.
type Replica struct {
	*Process
	Name         string    // in logs, and in etcd
	URL          string    // where it serves the API
	Registration string    // where it serves proxies
	Status       string    // where it serves /healthz, /readyz and /metrics
	Admin        *Operator // calls this one, whatever becomes of the others

	settings string // its file
}

// startReplicas starts the control plane and waits until all of it is ready.
func (f *Fleet) startReplicas(ctx context.Context) error {
	binary, err := program(f.bin, "sallyport-controlplane")
	if err != nil {
		return err
	}
	if err := f.serverCertificate("controlplane-tls"); err != nil {
		return err
	}
	for i := range f.replicas {
		if err := f.addReplica(ctx, binary, i); err != nil {
			return err
		}
	}
	first := f.Replicas[0]
	f.ControlPlane, f.Described.ControlPlane, f.Described.Status = first.Process, first.URL, first.Status
	migrate := &Process{Label: "migration", Args: []string{binary, "migrate", "--settings", first.settings}, Log: first.Log}
	if err := migrate.Start(); err != nil {
		return err
	}
	<-migrate.done
	if !migrate.cmd.ProcessState.Success() {
		return errors.New("the database was not migrated")
	}
	for _, r := range f.Replicas {
		if err := r.Start(); err != nil {
			return err
		}
	}
	for _, r := range f.Replicas {
		if err := f.ReplicaReady(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// addReplica makes a replica that is ready to be started.
func (f *Fleet) addReplica(ctx context.Context, binary string, i int) error {
	label, file, name := "control plane", "controlplane", "demo"
	if i > 0 {
		label, file, name = fmt.Sprintf("%s %d", label, i+1), fmt.Sprintf("%s-%d", file, i+1), fmt.Sprintf("%s-%d", name, i+1)
	}
	socket, err := f.identities.Workload(ctx, Workload{ControlPlaneID, file, binary})
	if err != nil {
		return err
	}
	addresses, err := freeAddresses(3)
	if err != nil {
		return err
	}
	content := map[string]any{
		"replica":          name,
		"workload":         map[string]any{"socket": socket, "trust_domain": TrustDomain},
		"database":         map[string]any{"url_file": f.Path("database-url")},
		"etcd":             map[string]any{"endpoints": f.etcd},
		"signing_key_file": f.Path("signing-key.pem"),
		"admin": map[string]any{
			"address":          addresses[0],
			"certificate_file": f.Path("controlplane-tls.pem"),
			"private_key_file": f.Path("controlplane-tls-key.pem"),
			"administrators":   []map[string]any{{"spiffe_id": OperatorID, "role": "admin"}},
		},
		"proxies": map[string]any{"address": addresses[1]},
		"health":  map[string]any{"address": addresses[2]},
	}
	if f.edge {
		content["edges"] = []map[string]any{{"spiffe_id": EdgeID}}
		content["targets"] = []map[string]any{{"name": "near", "etcd": map[string]any{"endpoints": f.Near.Endpoints()}}}
	}
	settings, err := f.settings(file, content)
	if err != nil {
		return err
	}
	r := &Replica{
		Process: &Process{Label: label, Args: []string{binary, "--settings", settings}, Log: f.Path(file + ".log")},
		Name:    name, URL: "https://" + addresses[0], Registration: "https://" + addresses[1], Status: "http://" + addresses[2],
		settings: settings,
	}
	f.Replicas = append(f.Replicas, r)
	f.ends = append(f.ends, r.Stop)
	return nil
}
