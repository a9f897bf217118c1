package schema

import (
	"encoding/json"
	"errors"
	"math/big"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// integerFormats are those of OpenAPI that the library does not know.
func integerFormats() []*jsonschema.Format {
	return []*jsonschema.Format{integerFormat("int32", 31), integerFormat("int64", 63)}
}

var errOutside = errors.New("is outside of its range")

func integerFormat(name string, bits uint) *jsonschema.Format {
	least := new(big.Rat).SetInt(new(big.Int).Neg(new(big.Int).Lsh(big.NewInt(1), bits)))
	most := new(big.Rat).SetInt(new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), bits), big.NewInt(1)))
	return &jsonschema.Format{Name: name, Validate: func(v any) error {
		n, ok := v.(json.Number)
		if ok && (!isInteger(n) || compare(n, least) < 0 || compare(n, most) > 0) {
			return errOutside
		}
		return nil
	}}
}
