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
	for _, r := range slices.Sorted(maps.Keys(known.by)) {
		w.Heads = append(w.Heads, known.by[r].Signed())
	}
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

// bearOut returns those proxies whose word is about a head of the fleet's.
func (h *heads) bearOut(ctx context.Context, proven []*distributionv1.ProvenProxy) (all []*distributionv1.ProvenProxy, err error) {
	for _, p := range proven {
		said, err := proof.Open(p.GetAckKey(), p.GetStatement(), p.GetSignature())
		if err != nil {
			continue // it was verified when it came
		}
		head, err := h.at(ctx, said.Revision)
		switch {
		case err != nil && !errors.Is(err, storage.ErrNotFound):
			return nil, err
		case said.Enforces(head):
			all = append(all, p)
		}
	}
	return all, nil
}
