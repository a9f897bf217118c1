package rotation

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/controlplane/registry"
	"github.com/sallyport/sallyport/internal/snapshot"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	"github.com/sallyport/sallyport/storage"
)

const (
	// page is how many proxies are read at once.
	page = 1000
	// maxNamed bounds the proxies that an error names.
	maxNamed = 10
)

// followed returns an error that names the proxies that are connected and do not follow
// key sets. Which build one has of which nobody has heard for a while is not known.
func (k *Keys) followed(ctx context.Context) error {
	var behind []string
	var after storage.Proxy
	for {
		records, err := k.cfg.Store.Proxies(ctx, "", after, page)
		if err != nil {
			return fmt.Errorf("read proxies: %w", err)
		}
		for _, record := range records {
			if record.Replica == "" || k.cfg.Now().Sub(record.LastSeen) > registry.LostAfter {
				continue
			}
			var p adminv1.Proxy
			if err := proto.Unmarshal(record.Status, &p); err != nil {
				return fmt.Errorf("status of proxy %s: %w", record.ID, err)
			}
			if !snapshot.Protocol(p.GetProtocolVersion()).HasKeySets() {
				behind = append(behind, fmt.Sprintf("%s (build %s)", record.ID, p.GetBuild()))
			}
		}
		if len(records) < page {
			break
		}
		after = records[len(records)-1]
	}
	if len(behind) == 0 {
		return nil
	}
	names := strings.Join(behind[:min(len(behind), maxNamed)], ", ")
	if more := len(behind) - maxNamed; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Errorf("proxies are connected that do not follow key sets, and would take nothing that another key has signed: upgrade %s", names)
}
