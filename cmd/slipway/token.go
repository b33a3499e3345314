package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/fault"
)

func newTokenCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Create, list and remove tokens"}
	cmd.AddCommand(newTokenCreateCommand(c), newTokenListCommand(c), newTokenRemoveCommand(c))
	return cmd
}

func newTokenCreateCommand(c *connection) *cobra.Command {
	var scopes []string
	var life time.Duration
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a token and print it; it is not shown again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("expires-in") && life <= 0 {
				return fault.New(fault.Invalid, "--expires-in %s is not in the future; give a time such as 720h, or leave it out for a token that is good for ever", life)
			}
			at, err := c.open()
			if err != nil {
				return err
			}
			wish := api.NewToken{Name: args[0], Scopes: scopes}
			if cmd.Flags().Changed("expires-in") {
				wish.Expires = time.Now().Add(life)
			}
			made, err := at.CreateToken(cmd.Context(), wish)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), made)
			}
			fmt.Fprintln(cmd.OutOrStdout(), made.Text)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&scopes, "scope", nil, "admin, repo:OWNER/NAME (read, push and run), pull (all images), pull:OWNER/NAME (those of one repo), runner or metrics; may be repeated")
	cmd.Flags().DurationVar(&life, "expires-in", 0, "how long it is good, such as 720h (default: for ever)")
	return cmd
}

func newTokenListCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tokens, without their texts", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			tokens, err := at.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), tokens)
			}
			return table(cmd.OutOrStdout(), "ID\tNAME\tSCOPES\tEXPIRES", tokens, func(t ci.Token) string {
				expires := "never"
				if !t.Expires.IsZero() {
					expires = t.Expires.Local().Format(time.DateTime)
				}
				return fmt.Sprintf("%d\t%s\t%s\t%s", t.ID, t.Name, strings.Join(t.Scopes, " "), expires)
			})
		},
	}
}

func newTokenRemoveCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "remove ID", Short: "Remove a token; it stops to be good at once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return fault.New(fault.Invalid, "%q is not the ID of a token; slipway token list shows them", args[0])
			}
			return at.DeleteToken(cmd.Context(), id)
		},
	}
}
