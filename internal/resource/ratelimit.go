package resource

import (
	"errors"
	"strings"

	"github.com/sallyport/sallyport/internal/quota"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func (d *decoder) rateLimit(s *resourcev1.RateLimit) {
	d.policy(PolicyOf(s))
	if s.GetPeriod().IsValid() && s.GetRequests() > 0 {
		if _, err := quota.NewRate(s.GetRequests(), s.GetPeriod().AsDuration(), s.GetBurst()); err != nil {
			at := atSpec().to("requests")
			if errors.Is(err, quota.ErrTooSlow) && s.GetBurst() > 0 {
				at = atSpec().to("burst")
			}
			d.follow(at.String(), ReasonInvalidValue, err.Error())
		}
	}
	for i, k := range s.GetKey() {
		if name := k.GetHeader(); name != "" {
			d.checked(atSpec().to("key").element(i).to("header"), name, checkFieldName)
		}
	}
}

// checkFieldName accepts names of fields of a header (RFC 9110, section 5.6.2).
func checkFieldName(name string) error {
	for i := range len(name) {
		if !isAlphanumeric(name[i]) && strings.IndexByte("!#$%&'*+-.^_`|~", name[i]) < 0 {
			return errors.New("is no name of a header field")
		}
	}
	return nil
}
