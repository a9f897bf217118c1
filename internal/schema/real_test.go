package schema_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/schema"
)

// What others have written, as it is in modules that a tool of ours needs, compiles,
// and requests are compared with it.
func TestDocumentsOfOthers(t *testing.T) {
	kubernetes := filepath.Join(module(t, "k8s.io/client-go"), "openapi", "openapitest", "testdata")
	ejbca := filepath.Join(module(t, "github.com/Keyfactor/ejbca-go-client-sdk"), "api")
	const json = "\nContent-Type: application/json\n\n"
	for _, c := range []struct {
		file     string
		requests map[string]string
	}{
		{filepath.Join(kubernetes, "apis__discovery.k8s.io__v1_openapi.json"), map[string]string{
			"GET /apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?limit=10&watch=true": "",
			"GET /apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?limit=ten":           "parameters_invalid\n/query/limit is string, not integer",
			"GET /apis/discovery.k8s.io/v2/endpointslices":                                     "operation_unknown\nis no operation of the document",
			"POST /apis/discovery.k8s.io/v1/namespaces/shop/endpointslices" + json + `{"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true}}],"ports":[{"port":443}]}`: "",
			"POST /apis/discovery.k8s.io/v1/namespaces/shop/endpointslices" + json + `{"endpoints":[{"addresses":"10.0.0.1"}],"ports":[{"port":"https"}]}`: "body_invalid\n" +
				"/body lacks the member \"addressType\"\n/body/endpoints/0/addresses is string, not array\n/body/ports/0/port is string, not integer",
		}},
		{filepath.Join(kubernetes, "api__v1_openapi.json"), map[string]string{
			"POST /api/v1/namespaces/shop/pods" + json + `{"metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"b","resources":{"limits":{"cpu":"1"}}}]}}`: "",
			"POST /api/v1/namespaces/shop/pods" + json + `{"spec":{"containers":[{"image":"b","ports":[{"containerPort":"80"}]}]}}`: "body_invalid\n" +
				"/body/spec/containers/0 lacks the member \"name\"\n/body/spec/containers/0/ports/0/containerPort is string, not integer",
		}},
		{filepath.Join(ejbca, "openapi.yaml"), map[string]string{
			"POST /ejbca/ejbca-rest-api/v1/certificate/pkcs10enroll" + json + `{"certificate_request":"x","include_chain":true}`: "",
			"POST /ejbca/ejbca-rest-api/v1/certificate/pkcs10enroll" + json + `{"include_chain":"yes"}`:                          "body_invalid\n/body/include_chain is string, not boolean",
			"GET /ejbca/ejbca-rest-api/v1/certificate/expire?days=30&offset=0&maxNumberOfResults=10":                             "",
			"GET /v1/certificate/status": "operation_unknown\nis no operation of the document",
		}},
	} {
		text, err := os.ReadFile(c.file)
		if err != nil {
			t.Fatal(err)
		}
		s, err := schema.Compile(schema.Source{OpenAPI: string(text)})
		if err != nil {
			t.Fatalf("%s: %v", c.file, err)
		}
		for request, want := range c.requests {
			if got := lines(ask(s, request, schema.Options{})); got != want {
				t.Errorf("%s: %s\n%s\nwant\n%s", filepath.Base(c.file), request, got, want)
			}
		}
	}
}

// module returns where a module is, as tools/spire pins it.
func module(t *testing.T, path string) string {
	t.Helper()
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("..", "..", "tools", "spire", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	_, rest, _ := strings.Cut(read("go.mod"), "\t"+path+" ")
	version, _, _ := strings.Cut(rest, " ")
	out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", path+"@"+version).Output()
	var found struct{ Dir, Sum, Error string }
	if e := json.Unmarshal(out, &found); err != nil || e != nil {
		t.Fatalf("%s %s: %v %v %s", path, version, err, e, found.Error)
	}
	if found.Sum == "" || !strings.Contains(read("go.sum"), path+" "+version+" "+found.Sum+"\n") {
		t.Fatalf("%s %s is not what tools/spire pins: %s", path, version, found.Sum)
	}
	return found.Dir
}
