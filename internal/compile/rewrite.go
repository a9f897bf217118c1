package compile

import (
	"net/http"
	"net/textproto"

	"github.com/sallyport/sallyport/internal/cors"
	"github.com/sallyport/sallyport/internal/rewrite"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// Rewrites are what a route makes of requests and answers. The zero value makes
// nothing of them.
type Rewrites struct {
	Target            rewrite.Target
	Redirect          *rewrite.Redirect // nil for none; then there is no upstream
	Request, Response rewrite.Changes   // of headers
}

// rewritesOf is about a route that package resource has accepted.
func rewritesOf(r *resourcev1.Route) (w Rewrites, err error) {
	path := func(target string) (*rewrite.Path, error) {
		if target == "" {
			return nil, nil //nolint:nilnil // no path is made
		}
		return rewrite.NewPath(r.GetPaths(), target)
	}
	w.Request, w.Response = changesOf(r.GetRequestHeaders()), changesOf(r.GetResponseHeaders())
	w.Target.Host = r.GetRewrite().GetHost()
	if w.Target.Path, err = path(r.GetRewrite().GetPath()); err != nil {
		return Rewrites{}, err
	}
	if to := r.GetRedirect(); to != nil {
		w.Redirect = &rewrite.Redirect{Status: int(to.GetStatus()), Scheme: to.GetScheme(), Host: to.GetHost()}
		if w.Redirect.Status == 0 {
			w.Redirect.Status = http.StatusFound
		}
		w.Redirect.Path, err = path(to.GetPath())
	}
	return w, err
}

func changesOf(c *resourcev1.HeaderChanges) (w rewrite.Changes) {
	fields := func(from []*resourcev1.HeaderField) (to []rewrite.Field) {
		for _, f := range from {
			to = append(to, rewrite.Field{Name: textproto.CanonicalMIMEHeaderKey(f.GetName()), Value: f.GetValue()})
		}
		return to
	}
	for _, name := range c.GetRemove() {
		w.Remove = append(w.Remove, textproto.CanonicalMIMEHeaderKey(name))
	}
	w.Set, w.Add = fields(c.GetSet()), fields(c.GetAdd())
	return w
}

func corsOf(c *resourcev1.CORS) *cors.Rule {
	if c == nil {
		return nil
	}
	return cors.New(cors.Config{
		Origins: c.GetOrigins(), Methods: c.GetMethods(), Headers: c.GetRequestHeaders(), Exposed: c.GetResponseHeaders(),
		Credentials: c.GetCredentials(), MaxAge: c.GetMaxAge().AsDuration(),
	})
}
