// Package build names the build that is running.
package build

import "runtime/debug"

// Version returns the module version that was built, with the commit where it
// is known, such as "v0.1.0" or "devel 3f2a91c".
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 7 {
			return "devel " + s.Value[:7]
		}
	}
	return "devel"
}
