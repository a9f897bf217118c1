package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sallyport/sallyport/internal/build"
)

// newRoot returns the command with all its subcommands. Every flag takes its
// default from an environment variable: --ca-file from SALLYPORT_CA_FILE.
func newRoot() *cobra.Command {
	var server connection
	root := &cobra.Command{
		Use:   "sallyport",
		Short: "Operate a fleet of Sallyport proxies",
		Long: `Operate a fleet of Sallyport proxies.

Every flag can be given by a variable of the environment as well, such as
--ca-file by SALLYPORT_CA_FILE; the flag goes first. Commands exit with 0 when
all is as it was asked for, else with 1.`,
		Version:       build.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags())
		},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		server.flags(newApply(&server)),
		server.flags(newGet(&server)),
		server.flags(newDelete(&server)),
		server.flags(newKey(&server)),
		server.flags(newRevoke(&server)),
		server.flags(newRevisions(&server)),
		server.flags(newHistory(&server)),
		server.flags(newDiff(&server)),
		server.flags(newRollback(&server)),
		server.flags(newFleet(&server)),
		server.flags(newWait(&server)),
		server.flags(newDecisions(&server)),
		server.flags(newExplain(&server)),
		server.flags(newEval(&server)),
		server.flags(newWhoCan(&server)),
		server.flags(newBundle(&server)),
		newVerifyStatement(),
		newTest(),
		newDemo(),
	)
	return root
}

// fromEnvironment sets every flag that was not given from its variable.
func fromEnvironment(flags *pflag.FlagSet) (err error) {
	flags.VisitAll(func(f *pflag.Flag) {
		value, given := os.LookupEnv(variable(f.Name))
		if f.Changed || !given || value == "" || err != nil {
			return
		}
		if e := flags.Set(f.Name, value); e != nil {
			err = fmt.Errorf("%s: %w", variable(f.Name), e)
		}
	})
	return err
}

func variable(flag string) string {
	return "SALLYPORT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
