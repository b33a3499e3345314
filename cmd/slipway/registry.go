package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"slipway/internal/fault"
	"slipway/internal/registry"
	"slipway/internal/store/sqlstore"
)

func newRegistryCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "registry", Short: "Look after the image registry"}
	cmd.AddCommand(newRegistryCheckCommand())
	return cmd
}

func newRegistryCheckCommand() *cobra.Command {
	var data, database string
	var options registry.CheckOptions
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Compare the registry's database with its files, while no server runs",
		Long: `Compare the registry's database with its files: files that nothing knows, blobs whose file is lost or damaged,
manifests that are damaged or lack a blob. It works on the data folder, and no server may run on it meanwhile.

With --repair it makes right what can be; a blob that is lost and that an image needs, only its next push can bring
back. Exit code 2 says that something is left to do.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if _, err := os.Stat(filepath.Join(data, "registry")); err != nil {
				return fault.New(fault.Invalid, "%s is not the data folder of a server: %w; give it by --data", data, err)
			}
			unlock, err := lockFile(filepath.Join(data, "lock"))
			switch {
			case errors.Is(err, errLocked):
				return fault.New(fault.Conflict, "a slipway server uses %s: %w; stop it first", data, err)
			case err != nil:
				return fault.New(fault.Invalid, "%s cannot be locked: %w", data, err)
			}
			defer unlock()
			if database == "" {
				database = filepath.Join(data, "slipway.db")
			}
			db, err := sqlstore.Open(cmd.Context(), database)
			if err != nil {
				return fault.New(fault.Unavailable, "%w", err)
			}
			defer func() { err = errors.Join(err, db.Close()) }()
			images, err := registry.New(registry.Options{
				Dir: filepath.Join(data, "registry"), Store: db, Authority: access{}, Key: make([]byte, 32), // it serves nothing
			})
			if err != nil {
				return err
			}
			problems, err := images.Check(cmd.Context(), options)
			left := 0
			for _, p := range problems {
				state := "repaired"
				if !p.Repaired {
					state = "found"
					left++
				}
				fmt.Fprintln(cmd.OutOrStdout(), strings.Join(strings.Fields(fmt.Sprintf("%s: %s %s %s", state, p.Kind, p.Repository, p.Digest)), " ")+": "+p.Message)
			}
			if err != nil {
				return err
			}
			if left > 0 {
				hint := ""
				if !options.Repair {
					hint = "; --repair makes right what can be"
				}
				return fault.New(fault.Failed, "%d disagreements are left%s", left, hint)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the database and the files agree")
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&data, "data", defaultData, "the server's data folder")
	flags.StringVar(&database, "database", "", "the server's --database, if it has one")
	flags.BoolVar(&options.Repair, "repair", false, "make right what can be")
	flags.BoolVar(&options.Verify, "verify", false, "also read every blob and compute its digest")
	return cmd
}
