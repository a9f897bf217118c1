package controlplane

import (
	"errors"
	"fmt"
	"net/url"
	"reflect"

	"github.com/sallyport/sallyport/internal/identity"
)

// The roles of a replica.
const (
	// RoleFull has a database and the API, and may publish.
	RoleFull = "full"
	// RoleEdge serves proxies from an etcd near them, and hands on what they say. It
	// has neither a database nor a key that signs.
	RoleEdge = "edge"
)

// Edge names a replica with the role edge.
type Edge struct {
	// SPIFFEID is that of its X.509-SVID.
	SPIFFEID string `json:"spiffe_id"`
}

// errEdge says that a command is for replicas with a database.
var errEdge = errors.New("these are the settings of an edge, which has no database: use those of a replica whose role is full")

// isEdge reports whether the replica has the role edge.
func (s *Settings) isEdge() bool { return s.Role == RoleEdge }

// full returns an error for the settings of an edge.
func (s *Settings) full() error {
	if s.isEdge() {
		return errEdge
	}
	return nil
}

// validateRole checks what depends on the role.
func (s *Settings) validateRole(f *faults) {
	switch s.Role {
	case "", RoleFull:
		s.validateFull(f)
	case RoleEdge:
		s.validateEdge(f)
	default:
		f.report("role", fmt.Errorf("%q is neither %s nor %s", s.Role, RoleFull, RoleEdge))
	}
}

// absent reports settings that the role has no use for, with why.
func (f *faults) absent(why string, settings map[string]any, keys ...string) {
	for _, key := range keys {
		if v := reflect.ValueOf(settings[key]); !v.IsZero() && !(v.Kind() == reflect.Slice && v.Len() == 0) {
			f.report(key, errors.New(why))
		}
	}
}

func (s *Settings) validateEdge(f *faults) {
	s.Etcd.validate("etcd", f)
	f.absent("an edge publishes nothing", map[string]any{"targets": s.Targets}, "targets")
	f.absent("an edge never has the etcd of the election", map[string]any{"election": s.Election}, "election")
	f.absent("an edge serves from etcd", map[string]any{"follows": s.Follows}, "follows")
	f.absent("an edge has no database", map[string]any{
		"database": s.Database, "decisions": s.Decisions, "fleet": s.Fleet, "revisions": s.Revisions,
	}, "database", "decisions", "fleet", "revisions")
	f.absent("an edge signs nothing", map[string]any{
		"signing_key_file": s.SigningKeyFile, "signing_key_pkcs11": s.SigningKeyPKCS11, "secrets_key_file": s.SecretsKeyFile,
	}, "signing_key_file", "signing_key_pkcs11", "secrets_key_file")
	f.absent("an edge has no API", map[string]any{"admin": s.Admin}, "admin")
	f.absent("an edge takes nothing from other edges", map[string]any{"edges": s.Edges}, "edges")
	f.required("root_public_key_file", s.RootPublicKeyFile, func(path string) error {
		_, err := ReadPublicKey(path)
		return err
	})
	if len(s.ControlPlanes) == 0 {
		f.report("control_planes", errRequired)
	}
	for i, u := range s.ControlPlanes {
		f.report(fmt.Sprintf("control_planes[%d]", i), checkReplicaURL(u))
	}
	f.required("control_plane_id", s.ControlPlaneID, checkSPIFFEID)
}

func (s *Settings) validateEdges(f *faults) {
	if len(s.Edges) > 0 && len(s.Targets) == 0 && s.Election.isZero() {
		f.report("edges", errors.New("need an etcd that does not elect the publisher: name it in targets, or another one in election"))
	}
	f.absent("is for edges: this replica has a database", map[string]any{
		"control_planes": s.ControlPlanes, "control_plane_id": s.ControlPlaneID,
	}, "control_planes", "control_plane_id")
	seen := map[string]bool{}
	for i, e := range s.Edges {
		key := fmt.Sprintf("edges[%d].spiffe_id", i)
		f.required(key, e.SPIFFEID, checkSPIFFEID)
		if e.SPIFFEID != "" && seen[e.SPIFFEID] {
			f.report(key, fmt.Errorf("%s is there twice", e.SPIFFEID))
		}
		seen[e.SPIFFEID] = true
	}
}

// edges returns the SPIFFE IDs of the edges.
func (s *Settings) edges() []identity.ID {
	ids := make([]identity.ID, len(s.Edges))
	for i, e := range s.Edges {
		ids[i] = identity.ID(e.SPIFFEID)
	}
	return ids
}

func checkSPIFFEID(text string) error {
	_, err := identity.ParseID(text)
	return err
}

// checkReplicaURL accepts https://host:port, and nothing more.
func checkReplicaURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.User != nil ||
		u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q is not of the form https://host:port", text)
	}
	return nil
}
