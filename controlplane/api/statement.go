package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/proof"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	distributionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/distribution/v1"
	proxyv1 "github.com/sallyport/sallyport/proto/gen/sallyport/proxy/v1"
	"github.com/sallyport/sallyport/storage"
)

// maxHeads bounds the heads of a statement. Proxies that are at one revision make one.
const maxHeads = 1000

var errNoSigner = connect.NewError(connect.CodeFailedPrecondition, errors.New("the key of this replica does not sign for the fleet"))

// ExportStatement implements adminv1connect.FleetServiceHandler.
func (s fleetService) ExportStatement(ctx context.Context, req *connect.Request[adminv1.ExportStatementRequest]) (*connect.Response[adminv1.ExportStatementResponse], error) {
	if s.signer == nil || s.verifier == nil || !s.verifier.Trusts(s.signer.Public().ID()) {
		return nil, errNoSigner
	}
	environment := req.Msg.GetEnvironment()
	_, at, err := s.at(ctx, snapshot.Revision(req.Msg.GetRevision()), []string{environment})
	if err != nil {
		return nil, err
	}
	proven, others, err := s.registry.Proven(ctx, environment, at[environment])
	if err != nil {
		return nil, err
	}
	known := heads{store: s.store, verifier: s.verifier.Past(), environment: environment, by: map[snapshot.Revision]snapshot.Head{}}
	first, err := known.at(ctx, at[environment])
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("revision %d of %s was not signed yet", at[environment], environment))
	case err != nil:
		return nil, err
	}
	w := proof.Witnessed{}
	if w.Proxies, err = known.bearOut(ctx, proven); err != nil {
		return nil, err
	}
	lane := heads{store: s.store, verifier: known.verifier, environment: snapshot.SecurityLane, by: map[snapshot.Revision]snapshot.Head{}}
	if err := lane.bearOutSecurity(ctx, w.Proxies); err != nil {
		return nil, err
	}
	w.Heads, w.SecurityHeads = known.signed(), lane.signed()
	for _, set := range s.verifier.KeySets() {
		w.KeySets = append(w.KeySets, set.Signed())
	}
	return s.state(proof.Claim{
		Environment: environment, Position: first.Position(), At: s.now(), Others: others + len(proven) - len(w.Proxies),
	}, w)
}

// state makes a statement, and hands out none that does not verify.
func (s fleetService) state(c proof.Claim, w proof.Witnessed) (*connect.Response[adminv1.ExportStatementResponse], error) {
	file, err := proof.Write(c, w, s.signer)
	if err != nil {
		return nil, err
	}
	if _, err := proof.Read(file, s.verifier.Pinned().Verifier()); err != nil {
		return nil, fmt.Errorf("statement does not verify: %w", err)
	}
	return connect.NewResponse(&adminv1.ExportStatementResponse{
		Statement: file, Proxies: int32(len(w.Proxies)), Others: int32(c.Others), //nolint:gosec // proxies of one fleet
	}), nil
}

// heads are those of an environment, read as they are asked for.
type heads struct {
	store       Store
	verifier    *snapshot.Verifier
	environment string
	by          map[snapshot.Revision]snapshot.Head
}

func (h *heads) at(ctx context.Context, r snapshot.Revision) (snapshot.Head, error) {
	if head, ok := h.by[r]; ok || len(h.by) == maxHeads {
		return head, nil
	}
	stored, err := h.store.Head(ctx, h.environment, r)
	if err != nil {
		return snapshot.Head{}, err
	}
	head, err := h.verifier.VerifyHead(stored.Signed)
	if err == nil {
		h.by[r] = head
	}
	return head, err
}

// signed returns those that were read, in order.
func (h *heads) signed() (all []*proxyv1.SignedHead) {
	for _, r := range slices.Sorted(maps.Keys(h.by)) {
		all = append(all, h.by[r].Signed())
	}
	return all
}

// bearOutSecurity takes away what proxies have said of the security lane, but for what
// is about a head of the fleet's.
func (h *heads) bearOutSecurity(ctx context.Context, proven []*distributionv1.ProvenProxy) error {
	for _, p := range proven {
		if len(p.GetSecurityStatement()) == 0 {
			continue
		}
		enforces, err := h.bearsOut(ctx, p.GetAckKey(), p.GetSecurityStatement(), p.GetSecuritySignature())
		if err != nil {
			return err
		}
		if !enforces {
			p.SecurityStatement, p.SecuritySignature = nil, nil
		}
	}
	return nil
}

// bearsOut reports whether what a proxy has signed is that it enforces a head of the
// fleet's.
func (h *heads) bearsOut(ctx context.Context, key, statement, signature []byte) (bool, error) {
	said, err := proof.Open(key, statement, signature)
	if err != nil {
		return false, nil //nolint:nilerr // it was verified when it came
	}
	head, err := h.at(ctx, said.Revision)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return said.Enforces(head), err
}

// bearOut returns those proxies whose word is about a head of the fleet's.
func (h *heads) bearOut(ctx context.Context, proven []*distributionv1.ProvenProxy) (all []*distributionv1.ProvenProxy, err error) {
	for _, p := range proven {
		enforces, err := h.bearsOut(ctx, p.GetAckKey(), p.GetStatement(), p.GetSignature())
		if err != nil {
			return nil, err
		}
		if enforces {
			all = append(all, p)
		}
	}
	return all, nil
}
