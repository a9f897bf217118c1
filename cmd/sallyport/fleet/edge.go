package fleet

import "context"

// EdgeID is the SPIFFE ID of a fleet's edge.
const EdgeID = "spiffe://" + TrustDomain + "/edge"

// startEdge starts the edge, if there is to be one. It is ready once the publisher has
// written who is admitted.
func (f *Fleet) startEdge(ctx context.Context) error {
	if !f.edge {
		return nil
	}
	binary, err := program(f.bin, "sallyport-controlplane")
	if err != nil {
		return err
	}
	socket, err := f.identities.Workload(ctx, Workload{EdgeID, "edge", binary})
	if err != nil {
		return err
	}
	addresses, err := freeAddresses(2)
	if err != nil {
		return err
	}
	settings, err := f.settings("edge", map[string]any{
		"replica":              "edge-1",
		"role":                 "edge",
		"control_planes":       []string{f.Replicas[0].Registration},
		"control_plane_id":     ControlPlaneID,
		"workload":             map[string]any{"socket": socket, "trust_domain": TrustDomain},
		"etcd":                 map[string]any{"endpoints": f.Near.Endpoints()},
		"root_public_key_file": f.Path(rootKeyFile),
		"proxies":              map[string]any{"address": addresses[0]},
		"health":               map[string]any{"address": addresses[1]},
	})
	if err != nil {
		return err
	}
	f.Edge = &Replica{
		Process: &Process{Label: "edge", Args: []string{binary, "--settings", settings}, Log: f.Path("edge.log")},
		Name:    "edge-1", Registration: "https://" + addresses[0], Status: "http://" + addresses[1], settings: settings,
	}
	f.ends = append(f.ends, f.Edge.Stop)
	return f.Edge.Start()
}

// serving returns who serves the proxy of a cloud, and what they prove to be.
func (f *Fleet) serving(cloud string) (urls []string, id string) {
	if f.edge && cloud != "aws" {
		return []string{f.Edge.Registration}, EdgeID
	}
	for _, r := range f.Replicas {
		urls = append(urls, r.Registration)
	}
	return urls, ControlPlaneID
}
