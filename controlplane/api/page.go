package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"

	"connectrpc.com/connect"

	"github.com/sallyport/sallyport/internal/snapshot"
)

func pageSize(asked int32, otherwise int) int {
	if asked == 0 {
		return otherwise
	}
	return int(asked)
}

// encodeToken makes a page token of the place where the page ended. It is no
// secret and grants nothing.
func encodeToken(place ...string) string {
	b, err := json.Marshal(place)
	if err != nil {
		panic("api: strings do not marshal") // they do
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

var errToken = connect.NewError(connect.CodeInvalidArgument, errors.New("page_token is not one of ours"))

func decodeToken(token string, place ...*string) error {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return errToken
	}
	var values []string
	if err := json.Unmarshal(b, &values); err != nil || len(values) != len(place) {
		return errToken
	}
	for i, p := range place {
		*p = values[i]
	}
	return nil
}

func formatRevision(r snapshot.Revision) string { return strconv.FormatInt(int64(r), 10) }

func parseRevision(s string, r *snapshot.Revision) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		return errToken
	}
	*r = snapshot.Revision(n)
	return nil
}
