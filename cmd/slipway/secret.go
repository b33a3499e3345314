package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/fault"
)

func newSecretCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{Use: "secret", Short: "Set, list and remove the secrets of a repo"}
	cmd.AddCommand(newSecretSetCommand(c), newSecretListCommand(c), newSecretRemoveCommand(c))
	return cmd
}

func newSecretSetCommand(c *connection) *cobra.Command {
	var file string
	var pullRequests bool
	cmd := &cobra.Command{
		Use:   "set OWNER/NAME SECRET",
		Short: "Set a secret to what comes on standard input, or to a file's content",
		Example: `  printf %s "$PASSWORD" | slipway secret set ada/engine DOCKER_PASSWORD
  slipway secret set ada/engine kubeconfig --file ~/.kube/config`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			var text []byte
			if file != "" {
				text, err = os.ReadFile(file)
			} else {
				text, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), 1<<20))
			}
			if err != nil {
				return fmt.Errorf("read the secret's value: %w", err)
			}
			value := string(text)
			if strings.Count(value, "\n") == 1 { // `echo value |` is not meant to have the line's end in the value
				value = strings.TrimSuffix(value, "\n")
			}
			if value == "" {
				return fault.New(fault.Invalid, "the value is empty; give it on standard input or by --file")
			}
			return at.PutSecret(cmd.Context(), args[0], args[1], api.SecretValue{Value: value, PullRequests: pullRequests})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "file with the value")
	cmd.Flags().BoolVar(&pullRequests, "pull-requests", false, "also give it to pull requests of the same repository; forks never get it")
	return cmd
}

func newSecretListCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "list OWNER/NAME", Short: "List the names of a repo's secrets", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			secrets, err := at.Secrets(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), secrets)
			}
			return table(cmd.OutOrStdout(), "SECRET\tPULL REQUESTS\tUPDATED", secrets, func(s ci.Secret) string {
				return fmt.Sprintf("%s\t%t\t%s", s.Name, s.PullRequests, s.Updated.Local().Format(time.DateTime))
			})
		},
	}
}

func newSecretRemoveCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "remove OWNER/NAME SECRET", Short: "Remove a secret", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			return at.DeleteSecret(cmd.Context(), args[0], args[1])
		},
	}
}
