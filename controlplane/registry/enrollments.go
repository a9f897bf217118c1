package registry

import (
	"context"
	"fmt"
	"maps"

	"github.com/sallyport/sallyport/internal/pattern"
	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
	"github.com/sallyport/sallyport/storage"
)

// enrollment is a compiled Enrollment.
type enrollment struct {
	pattern     pattern.SPIFFE
	environment string
	labels      map[string]string
	manual      bool // operators approve each SPIFFE ID
}

func (r *Registry) refresh(ctx context.Context) {
	if r.read == nil {
		if err := r.forgetStreams(ctx); err != nil {
			r.unread(ctx, err)
			return
		}
	}
	versions, err := r.list(ctx)
	if err != nil {
		r.unread(ctx, err)
		return
	}
	read := make(map[resource.Key]snapshot.Digest, len(versions))
	for _, v := range versions {
		read[v.Key] = v.Digest
	}
	if r.read != nil && maps.Equal(r.read, read) {
		return
	}
	r.read = read
	var enrollments []enrollment
	for _, v := range versions {
		e, err := parse(v)
		if err != nil {
			r.log.ErrorContext(ctx, "enrollment was left out", "resource", v.Key.String(), "err", err)
			continue
		}
		enrollments = append(enrollments, e)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.enrollments, r.ready = enrollments, true
	close(r.admissions)
	r.admissions = make(chan struct{})
}

func (r *Registry) unread(ctx context.Context, err error) {
	if ctx.Err() == nil {
		r.log.WarnContext(ctx, "enrollments could not be read", "err", err)
	}
}

// list reads all enrollments, ordered by key.
func (r *Registry) list(ctx context.Context) (all []storage.Version, err error) {
	f := storage.Filter{Kind: resource.KindEnrollment, Limit: page}
	for {
		var versions []storage.Version
		if versions, f.At, err = r.store.List(ctx, f); err != nil {
			return nil, err
		}
		all = append(all, versions...)
		if len(versions) < page {
			return all, nil
		}
		f.After = versions[len(versions)-1].Key
	}
}

// parse understands an enrollment whole, or not at all: what a later build
// added to it may have been meant to keep proxies out.
func parse(v storage.Version) (enrollment, error) {
	parsed, err := resource.ParseDocument(v.Document)
	if err != nil {
		return enrollment{}, err
	}
	spec, ok := parsed.Spec.(*resourcev1.Enrollment)
	if !ok || parsed.Key != v.Key {
		return enrollment{}, fmt.Errorf("the document is of %s", parsed.Key)
	}
	p, err := pattern.ParseSPIFFE(spec.GetSpiffeId())
	if err != nil {
		return enrollment{}, err
	}
	return enrollment{
		pattern: p, environment: spec.GetEnvironment(), labels: spec.GetLabels(),
		manual: spec.GetApproval() == resourcev1.Approval_APPROVAL_MANUAL,
	}, nil
}

// Admission is where an Enrollment puts a proxy.
type Admission struct {
	Environment string
	Labels      map[string]string
	// Changed is closed when enrollments change: ask again.
	Changed <-chan struct{}
}

// Admit returns where a SPIFFE ID belongs. ErrNotAdmitted, with Changed set, if
// no Enrollment matches, if those that do name several environments, or if operators
// keep it out: ErrBarred as well when they have said so.
func (r *Registry) Admit(spiffeID string) (Admission, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.admit(spiffeID)
}

// admit needs the mutex.
func (r *Registry) admit(spiffeID string) (Admission, error) {
	a, manual := Admission{Changed: r.admissions, Labels: map[string]string{}}, false
	for _, e := range r.enrollments {
		if !e.pattern.Match(spiffeID) {
			continue
		}
		if a.Environment != "" && a.Environment != e.environment {
			return Admission{Changed: r.admissions}, fmt.Errorf("%w: enrollments name %s and %s", ErrNotAdmitted, a.Environment, e.environment)
		}
		a.Environment, manual = e.environment, manual || e.manual
		maps.Copy(a.Labels, e.labels)
	}
	if err := r.standing(spiffeID, manual); err != nil {
		return Admission{Changed: r.admissions}, err
	}
	if a.Environment == "" {
		return Admission{Changed: r.admissions}, fmt.Errorf("%w: no enrollment matches it", ErrNotAdmitted)
	}
	return a, nil
}
