package policy

import (
	"strings"

	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
)

// sizes are the largest values that closures of a condition take. CEL's
// estimate of what evaluation costs at most, given these sizes, is within
// maxCost, so that closures need not count. What is larger goes to the library,
// which does.
type sizes struct{ text, items int32 }

// allSizes are tried from the largest. The last is enough for what people
// write in conditions that loop within loops.
var allSizes = [...]sizes{{8192, 512}, {1024, 128}, {256, 32}, {128, 16}}

// EstimateCallCost implements cost.Estimator.
func (sizes) EstimateCallCost(_, _ string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	return nil
}

// EstimateSize implements cost.Estimator.
func (z sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	if n.Type() == nil {
		return nil
	}
	var most int32
	switch n.Type().Kind() {
	case types.StringKind, types.BytesKind:
		most = z.text
	case types.ListKind, types.MapKind:
		most = z.items
	case types.DynKind, types.AnyKind, types.TypeParamKind:
		if n.Expr() == nil && deep(n.Path()) {
			return nil
		}
		most = max(z.text, z.items)
	default:
		return nil
	}
	return &cost.SizeEstimate{Max: uint64(most)} //nolint:gosec // a constant of ours
}

// deep reports whether path leads into the elements of elements. The estimate
// would look for ever deeper ones; conditions get there one by one.
func deep(path []string) bool {
	n := len(path)
	return n > 1 && strings.HasPrefix(path[n-1], "@") && strings.HasPrefix(path[n-2], "@")
}

// admit takes a JSON value that is not too large, and of no type but those of
// encoding/json, or an int64.
func (z sizes) admit(v any) (any, fault) {
	fits := false
	switch v := v.(type) {
	case nil, bool, float64, int64:
		fits = true
	case string:
		fits = len(v) <= int(z.text)
	case []any:
		fits = len(v) <= int(z.items)
	case map[string]any:
		fits = len(v) <= int(z.items)
	}
	if !fits {
		return nil, elsewhere
	}
	return v, answered
}

func (z sizes) admitText(v string) (string, fault) {
	if len(v) > int(z.text) {
		return "", elsewhere
	}
	return v, answered
}
