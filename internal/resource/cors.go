package resource

import (
	"fmt"
	"net/textproto"

	"github.com/sallyport/sallyport/internal/cors"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/rewrite"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// cors refuses what no page can have or is not to have.
func (d *decoder) cors(c *resourcev1.CORS) {
	at := atSpec().to("cors")
	check := func(field string, list []string, check func(string) error) {
		for i, text := range list {
			d.checked(at.to(field).element(i), text, check)
		}
	}
	check("origins", c.GetOrigins(), cors.CheckOrigin)
	check("methods", c.GetMethods(), checkMethod)
	check("requestHeaders", c.GetRequestHeaders(), func(name string) error {
		return rewrite.CheckRequest(textproto.CanonicalMIMEHeaderKey(name), true)
	})
	check("responseHeaders", c.GetResponseHeaders(), checkPlainName)
}

// checkPlainName keeps lists of names what they are.
func checkPlainName(name string) error {
	if !request.IsFieldName(textproto.CanonicalMIMEHeaderKey(name)) {
		return fmt.Errorf("%s is no name of a header: letters, digits and hyphens", quote(name))
	}
	return nil
}
