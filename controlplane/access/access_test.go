package access_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/sallyport/sallyport/controlplane/access"
	_ "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
)

var (
	nobody  = access.Caller{}
	proxy   = access.Caller{SPIFFEID: "spiffe://prod.example/proxy/aws-1"}
	viewer  = access.Caller{SPIFFEID: "spiffe://prod.example/operator/viewer"}
	admin   = access.Caller{Issuer: "https://login.example", Subject: "admin"}
	another = access.Caller{Issuer: "https://login2.example", Subject: "admin"}
)

// table says for each procedure of the admin API who may call it: nobody, a
// proxy, a viewer, an admin, and the admin's subject at another issuer.
var table = map[string][5]bool{
	"/sallyport.admin.v1.ConfigService/Apply":            {false, false, false, true, false},
	"/sallyport.admin.v1.ConfigService/Delete":           {false, false, false, true, false},
	"/sallyport.admin.v1.ConfigService/Rollback":         {false, false, false, true, false},
	"/sallyport.admin.v1.ConfigService/Get":              {false, false, true, true, false},
	"/sallyport.admin.v1.ConfigService/List":             {false, false, true, true, false},
	"/sallyport.admin.v1.ConfigService/ListRevisions":    {false, false, true, true, false},
	"/sallyport.admin.v1.ConfigService/ListVersions":     {false, false, true, true, false},
	"/sallyport.admin.v1.ConfigService/Diff":             {false, false, true, true, false},
	"/sallyport.admin.v1.FleetService/ListProxies":       {false, false, true, true, false},
	"/sallyport.admin.v1.FleetService/GetProxy":          {false, false, true, true, false},
	"/sallyport.admin.v1.FleetService/WaitEnforced":      {false, false, true, true, false},
	"/sallyport.admin.v1.FleetService/Verify":            {false, false, true, true, false},
	"/sallyport.admin.v1.FleetService/Status":            {false, false, true, true, false},
	"/sallyport.admin.v1.FleetService/ExportStatement":   {false, false, true, true, false},
	"/sallyport.admin.v1.FleetService/Approve":           {false, false, false, true, false},
	"/sallyport.admin.v1.FleetService/Refuse":            {false, false, false, true, false},
	"/sallyport.admin.v1.FleetService/Quarantine":        {false, false, false, true, false},
	"/sallyport.admin.v1.FleetService/Release":           {false, false, false, true, false},
	"/sallyport.admin.v1.FleetService/Drain":             {false, false, false, true, false},
	"/sallyport.admin.v1.FleetService/Undrain":           {false, false, false, true, false},
	"/sallyport.admin.v1.FleetService/SetLabels":         {false, false, false, true, false},
	"/sallyport.admin.v1.FleetService/Forget":            {false, false, false, true, false},
	"/sallyport.admin.v1.DecisionService/Query":          {false, false, true, true, false},
	"/sallyport.admin.v1.DecisionService/Tail":           {false, false, true, true, false},
	"/sallyport.admin.v1.PolicyService/Explain":          {false, false, true, true, false},
	"/sallyport.admin.v1.PolicyService/Evaluate":         {false, false, true, true, false},
	"/sallyport.admin.v1.PolicyService/WhoCan":           {false, false, true, true, false},
	"/sallyport.admin.v1.PolicyService/RunTests":         {false, false, true, true, false},
	"/sallyport.admin.v1.ConfigService/AnnotateRevision": {false, false, false, true, false},
	"/sallyport.admin.v1.BundleService/Export":           {false, false, true, true, false},
}

func control(t *testing.T) *access.Control {
	t.Helper()
	c, err := access.NewControl([]access.Administrator{
		{Caller: viewer, Role: access.RoleViewer},
		{Caller: admin, Role: access.RoleAdmin},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhoMayCallWhat(t *testing.T) {
	c := control(t)
	for procedure, may := range table {
		for i, caller := range []access.Caller{nobody, proxy, viewer, admin, another} {
			err := c.Authorize(caller, procedure)
			want := access.ErrDenied
			if caller == nobody {
				want = access.ErrUnauthenticated
			}
			if may[i] && err != nil || !may[i] && !errors.Is(err, want) {
				t.Errorf("%s by %s: %v, may: %v", procedure, caller, err, may[i])
			}
		}
	}
}

// Going back creates, replaces and deletes: it is nobody's who may not do each of
// them.
func TestRollbackNeedsApplyAndDelete(t *testing.T) {
	c := control(t)
	for _, caller := range []access.Caller{nobody, proxy, viewer, admin, another} {
		may := func(name string) bool { return c.Authorize(caller, "/sallyport.admin.v1.ConfigService/"+name) == nil }
		if may("Rollback") && !(may("Apply") && may("Delete")) {
			t.Errorf("%s may go back, and not apply and delete", caller)
		}
	}
}

// Every procedure of the admin API has a row above: a new one fails here until
// someone has decided who may call it.
func TestEveryProcedureHasARow(t *testing.T) {
	procedures := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("sallyport.admin.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				procedures++
				p := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				if _, ok := table[p]; !ok {
					t.Errorf("%s has no row in the table", p)
				}
			}
		}
		return true
	})
	if procedures != len(table) || procedures != len(access.Procedures()) {
		t.Errorf("%d procedures, %d rows, %d rules", procedures, len(table), len(access.Procedures()))
	}
}

func TestUnknownProcedureIsDenied(t *testing.T) {
	if err := control(t).Authorize(admin, "/sallyport.admin.v1.ConfigService/Truncate"); !errors.Is(err, access.ErrDenied) {
		t.Errorf("got %v, want ErrDenied", err)
	}
	if err := (&access.Control{}).Authorize(admin, "/sallyport.admin.v1.ConfigService/Get"); !errors.Is(err, access.ErrDenied) {
		t.Errorf("zero control: %v, want ErrDenied", err)
	}
}

func TestAdministratorsThatNameNobodyAreRefused(t *testing.T) {
	for name, a := range map[string]access.Administrator{
		"nobody":         {Role: access.RoleAdmin},
		"both":           {Caller: access.Caller{SPIFFEID: "spiffe://a.example/b", Issuer: "i", Subject: "s"}, Role: access.RoleAdmin},
		"issuer alone":   {Caller: access.Caller{Issuer: "i"}, Role: access.RoleAdmin},
		"subject alone":  {Caller: access.Caller{Subject: "s"}, Role: access.RoleAdmin},
		"id and subject": {Caller: access.Caller{SPIFFEID: "spiffe://a.example/b", Subject: "s"}, Role: access.RoleAdmin},
		"no role":        {Caller: viewer},
	} {
		if _, err := access.NewControl([]access.Administrator{a}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	twice := access.Administrator{Caller: viewer, Role: access.RoleViewer}
	if _, err := access.NewControl([]access.Administrator{twice, twice}); err == nil {
		t.Error("named twice: accepted")
	}
}
