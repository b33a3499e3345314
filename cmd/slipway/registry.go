package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/api"
	"slipway/internal/fault"
	"slipway/internal/registry"
	"slipway/internal/store/sqlstore"
)

func newRegistryCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "registry", Short: "Look after the image registry (tags, policies, quotas, export and import, consistency), and prune others",
		Long: `Look after the image registry. REPOSITORY is the name of images, such as octo/app or octo/app/cache, without a host.`,
	}
	cmd.AddCommand(
		newTagsCommand(c), newHistoryCommand(c), newDeleteTagCommand(c), newRestoreCommand(c),
		newPolicyCommand(c), newQuotaCommand(c), newExportCommand(c), newImportCommand(c),
		newRegistryCheckCommand(), newPruneCommand(),
	)
	return cmd
}

func newTagsCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "tags REPOSITORY", Short: "List the tags of images", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			tags, err := at.ImageTags(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), tags)
			}
			return table(cmd.OutOrStdout(), "TAG\tDIGEST\tUPDATED\tBY", tags, func(t api.ImageTag) string {
				return fmt.Sprintf("%s\t%s\t%s\t%s", t.Tag, t.Digest, t.Updated.Local().Format(time.DateTime), t.By)
			})
		},
	}
}

func newHistoryCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "history REPOSITORY TAG", Short: "Show what a tag pointed at, newest first", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			history, err := at.TagHistory(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), history)
			}
			return table(cmd.OutOrStdout(), "AT\tDIGEST\tBY", history, func(h api.TagChange) string {
				return fmt.Sprintf("%s\t%s\t%s", h.At.Local().Format(time.DateTime), first(h.Digest, "(deleted)"), h.By)
			})
		},
	}
}

func newDeleteTagCommand(c *connection) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "delete-tag REPOSITORY TAG", Short: "Delete a tag, and leave its image and its other tags", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			return at.DeleteTag(cmd.Context(), args[0], args[1], force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "even if the tag is immutable")
	return cmd
}

func newRestoreCommand(c *connection) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "restore REPOSITORY TAG|DIGEST",
		Short: "Move a tag back, or bring back a tag or an image that was deleted",
		Long: `Move a tag back to the image that it pointed at before, or bring a deleted tag back with its image. Given a digest,
bring back that image alone. An image can be had back until the server's --registry-grace has passed.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			wish := api.Restoration{Tag: args[1], Digest: to}
			if strings.Contains(args[1], ":") {
				if to != "" {
					return fault.New(fault.Invalid, "--to is for tags")
				}
				wish = api.Restoration{Digest: args[1]}
			}
			restored, err := at.Restore(cmd.Context(), args[0], wish)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), restored)
			}
			name := args[0]
			if restored.Tag != "" {
				name += ":" + restored.Tag
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", name, restored.Digest)
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "digest that the tag shall point at (default: what it pointed at before)")
	return cmd
}

func newRegistryCheckCommand() *cobra.Command {
	var data, database, storage string
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
			objects, err := openStorage(cmd.Context(), storage, data)
			if err != nil {
				return err
			}
			images, err := registry.New(registry.Options{
				Dir: filepath.Join(data, "registry"), S3: objects, Store: db, Authority: access{}, Key: make([]byte, 32), // it serves nothing
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
	flags.StringVar(&storage, "registry-storage", "", "the server's --registry-storage, if it has one")
	flags.BoolVar(&options.Repair, "repair", false, "make right what can be")
	flags.BoolVar(&options.Verify, "verify", false, "also read every blob and compute its digest")
	return cmd
}
