package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport/sallyport/internal/identity"
	"github.com/sallyport/sallyport/internal/token"
)

// jwtTTL is SPIRE's own default.
const jwtTTL = 5 * time.Minute

// jwtAuthority signs JWT-SVIDs.
type jwtAuthority struct {
	id     string // its kid
	key    *ecdsa.PrivateKey
	bundle []byte // its JWKS
	keys   *token.KeySet
}

func newJWTAuthority() (*jwtAuthority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority's key: %w", err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("make authority's key: %w", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	a := &jwtAuthority{id: rand.Text(), key: key}
	jwks := func(use string) []byte {
		return fmt.Appendf(nil, `{"keys":[{"kty":"EC","crv":"P-256","use":%q,"kid":%q,"x":%q,"y":%q}]}`,
			use, a.id, b64(point[1:33]), b64(point[33:]))
	}
	a.bundle = jwks("jwt-svid")
	if a.keys, err = token.ParseKeySet(jwks("sig")); err != nil {
		return nil, fmt.Errorf("make authority's key: %w", err)
	}
	return a, nil
}

// IssueJWT makes a JWT-SVID for a demo or test client that does not use the
// Workload API, valid for ttl, or for 5 min when that is zero. It refuses an id of
// another trust domain and a token for nobody.
func (i *Issuer) IssueJWT(id identity.ID, ttl time.Duration, audiences ...string) (string, error) {
	if err := i.owns(id); err != nil {
		return "", err
	}
	if len(audiences) == 0 {
		return "", fmt.Errorf("issue JWT-SVID of %s: no audience", id)
	}
	if ttl == 0 {
		ttl = jwtTTL
	}
	now := i.cfg.Now()
	t := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"sub": string(id), "aud": audiences, "iat": now.Unix(), "exp": now.Add(ttl).Unix(), "jti": rand.Text(),
	})
	t.Header["kid"] = i.jwts.id
	raw, err := t.SignedString(i.jwts.key)
	if err != nil {
		return "", fmt.Errorf("issue JWT-SVID of %s: %w", id, err)
	}
	return raw, nil
}

// JWTBundle returns the keys of the trust domain's JWT-SVIDs, as a JWKS.
func (i *Issuer) JWTBundle() []byte { return i.jwts.bundle }

// FetchJWTSVID signs for the workload of the endpoint.
func (s *service) FetchJWTSVID(_ context.Context, req *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if id := req.GetSpiffeId(); id != "" && id != string(s.id) {
		return nil, status.Error(codes.PermissionDenied, "not this workload's identity")
	}
	if len(req.GetAudience()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "audience is missing")
	}
	raw, err := s.issuer.IssueJWT(s.id, 0, req.GetAudience()...)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: string(s.id), Svid: raw}}}, nil
}

// FetchJWTBundles sends the keys at once and on a push.
func (s *service) FetchJWTBundles(
	_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse],
) error {
	for {
		_, changed := s.issuer.trust()
		resp := &workload.JWTBundlesResponse{Bundles: map[string][]byte{
			bundleKey(s.issuer.cfg.TrustDomain): s.issuer.jwts.bundle,
		}}
		for td, keys := range s.issuer.federatedJWTs() {
			resp.Bundles[bundleKey(td)] = keys
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
		if err := wait(stream.Context(), changed, nil); err != nil {
			return err
		}
	}
}

// ValidateJWTSVID says what a JWT-SVID of the own trust domain says.
func (s *service) ValidateJWTSVID(_ context.Context, req *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	refuse := func(err error) (*workload.ValidateJWTSVIDResponse, error) {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	parsed, err := token.Parse(req.GetSvid())
	if err != nil {
		return refuse(err)
	}
	id, err := identity.ParseID(parsed.Subject)
	if err == nil {
		err = s.issuer.owns(id)
	}
	if err != nil {
		return refuse(err)
	}
	c, err := parsed.VerifySVID([]string{req.GetAudience()}, s.issuer.jwts.keys, s.issuer.cfg.Now())
	if err != nil {
		return refuse(err)
	}
	claims, err := structpb.NewStruct(c.All)
	if err != nil {
		return refuse(err)
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: string(id), Claims: claims}, nil
}

// FederateJWT makes every workload trust a JWKS for the JWT-SVIDs of another trust
// domain, at once; none ends the trust.
func (i *Issuer) FederateJWT(td identity.TrustDomain, bundle []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(bundle) == 0 {
		delete(i.federatedJWT, td)
	} else {
		i.federatedJWT[td] = bundle
	}
	i.push()
}
