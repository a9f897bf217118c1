package admission

import (
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/internal/resource"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

// The reasons of problems that admission finds, beside those of package
// resource. They are part of the API.
const (
	ReasonDuplicateResource = "duplicate_resource" // twice in one request
	ReasonDanglingReference = "dangling_reference" // to what is not there
	ReasonNotEverywhere     = "not_everywhere"     // a reference to what some environment lacks
	ReasonStillReferenced   = "still_referenced"   // deleted, but others refer to it
	ReasonInvalidCondition  = "invalid_cel"        // with line and column
	ReasonNeverFires        = "never_fires"        // a control that nothing can meet
	ReasonRouteConflict     = "route_conflict"     // two routes for the same requests
	ReasonAddressConflict   = "address_conflict"   // two listeners on one address
	ReasonNotFound          = "not_found"          // to be deleted
)

// Plan is what a request would do to the fleet.
type Plan struct {
	// Changes are what has to be committed; none when everything is so already.
	Changes []storage.Change
	// Types say what becomes of each resource of the request, in its order.
	Types []adminv1.ChangeType

	view    *view
	indexes map[resource.Key]int
}

// Apply plans the creation or replacement of resources and checks the fleet as
// it would be. With problems there is no plan. It does not change the state.
func (s *State) Apply(resources []*adminv1.Resource) (*Plan, resource.Problems) {
	p := s.plan(len(resources))
	var problems resource.Problems
	for i, r := range resources {
		parsed, found := resource.Decode(r)
		problems.Join(i, found)
		if found.Total > 0 {
			continue
		}
		if _, twice := p.indexes[parsed.Key]; twice {
			problems.Add(resource.Problem{
				Resource: parsed.Key.String(), Index: i, Field: "metadata.name",
				Reason: ReasonDuplicateResource, Message: "is in this request twice",
			})
			continue
		}
		if err := p.put(i, parsed); err != nil {
			problems.Add(resource.Problem{
				Resource: parsed.Key.String(), Index: i, Reason: resource.ReasonInvalidValue, Message: err.Error(),
			})
		}
	}
	if problems.Total == 0 {
		problems = p.check()
	}
	if problems.Total > 0 {
		return nil, problems
	}
	return p, resource.Problems{}
}

func (s *State) plan(n int) *Plan {
	return &Plan{
		Types:   make([]adminv1.ChangeType, n),
		view:    &view{base: s, over: map[resource.Key]*item{}},
		indexes: map[resource.Key]int{},
	}
}

// put adds a resource to the plan, unless the fleet holds just this one.
func (p *Plan) put(index int, parsed resource.Parsed) error {
	document, err := resource.Encode(parsed)
	if err != nil {
		return err
	}
	p.indexes[parsed.Key] = index
	old, digest := p.view.base.items[parsed.Key], snapshot.DocumentDigest(document)
	switch {
	case old == nil:
		p.Types[index] = adminv1.ChangeType_CHANGE_TYPE_CREATED
	case old.digest == digest:
		p.Types[index] = adminv1.ChangeType_CHANGE_TYPE_UNCHANGED
		return nil
	default:
		p.Types[index] = adminv1.ChangeType_CHANGE_TYPE_REPLACED
	}
	all, environments := parsed.Scope()
	scope := storage.Scope{All: all, Environments: environments}
	p.view.over[parsed.Key] = &item{Parsed: parsed, scope: scope, digest: digest}
	p.Changes = append(p.Changes, storage.Change{Key: parsed.Key, Scope: scope, Document: document, Digest: digest})
	return nil
}

// Delete plans the removal of resources and checks what would remain. With
// problems there is no plan. It does not change the state.
func (s *State) Delete(keys []resource.Key) (*Plan, resource.Problems) {
	p := s.plan(len(keys))
	var problems resource.Problems
	for i, key := range keys {
		if s.items[key] == nil {
			problems.Add(resource.Problem{
				Resource: key.String(), Index: i, Reason: ReasonNotFound, Message: "does not exist",
			})
			continue
		}
		if _, twice := p.indexes[key]; twice {
			problems.Add(resource.Problem{
				Resource: key.String(), Index: i, Reason: ReasonDuplicateResource, Message: "is in this request twice",
			})
			continue
		}
		p.indexes[key] = i
		p.Types[i] = adminv1.ChangeType_CHANGE_TYPE_DELETED
		p.view.over[key] = nil
		p.Changes = append(p.Changes, storage.Change{Key: key, Delete: true})
	}
	if problems.Total == 0 {
		problems = p.check()
	}
	if problems.Total > 0 {
		return nil, problems
	}
	return p, resource.Problems{}
}

// Recheck returns what is wrong with the plan now that others committed since
// its state: what it refers to may have gone, what it deletes may be referred
// to. Conditions were compiled before and are not again.
func (p *Plan) Recheck(since []storage.Version) (resource.Problems, error) {
	if len(since) == 0 {
		return resource.Problems{}, nil
	}
	moved := &Plan{view: &view{base: p.view.base, over: map[resource.Key]*item{}}, indexes: p.indexes}
	for _, v := range since {
		if v.Deleted {
			moved.view.over[v.Key] = nil
			continue
		}
		it, err := parse(v)
		if err != nil {
			return resource.Problems{}, fmt.Errorf("revision %d: %w", v.Revision, err)
		}
		moved.view.over[v.Key] = it
	}
	var problems resource.Problems
	for _, c := range p.Changes {
		if c.Delete && moved.view.get(c.Key) == nil {
			problems.Add(resource.Problem{
				Resource: c.Key.String(), Index: p.indexes[c.Key], Reason: ReasonNotFound, Message: "was deleted meanwhile",
			})
		}
		moved.view.over[c.Key] = p.view.over[c.Key]
	}
	problems.Merge(moved.references())
	return problems, nil
}

// Environments returns the environments that list the given scope, of those
// that there are after the plan.
func (p *Plan) Environments() []string {
	var names []string
	for it := range p.view.namespace("") {
		if it.Key.Kind == resource.KindEnvironment {
			names = append(names, it.Key.Name)
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(name string) bool {
		return !slices.ContainsFunc(p.Changes, func(c storage.Change) bool {
			old := p.view.base.items[c.Key]
			return c.Scope.Includes(name) || old != nil && old.scope.Includes(name)
		})
	})
}
