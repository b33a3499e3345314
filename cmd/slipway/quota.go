package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"slipway/internal/api"
	"slipway/internal/fault"
)

func newQuotaCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quota",
		Short: "Bound how many bytes repositories may have",
		Long: `Bound how many bytes a repository of images may have together with all below it. A blob that several of them have
counts once. What would go beyond is refused, and nothing of it stored.`,
	}
	get := &cobra.Command{
		Use: "get REPOSITORY", Short: "Print the quotas that hold for a repository, and what is used of them", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			quotas, err := at.ImageQuotas(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), quotas)
			}
			return table(cmd.OutOrStdout(), "REPOSITORY\tQUOTA\tUSED\tSTORED", quotas, func(q api.ImageQuota) string {
				return fmt.Sprintf("%s\t%d\t%d\t%d", q.Repository, q.Bytes, q.Used, q.Stored)
			})
		},
	}
	var all bool
	set := &cobra.Command{
		Use: "set [REPOSITORY] BYTES", Short: "Set a quota, such as 10Gi; 0 removes it; admins only", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) == 2) {
				return fault.New(fault.Invalid, "give a repository and its quota, or --all and one for each repo that has none of its own")
			}
			bytes, err := resource.ParseQuantity(args[len(args)-1])
			if err != nil || bytes.Sign() < 0 {
				return fault.New(fault.Invalid, "%q is not a number of bytes, such as 10Gi", args[len(args)-1])
			}
			name := ""
			if !all {
				name = args[0]
			}
			if name == "" && !all {
				return fault.New(fault.Invalid, "the name of the repository is empty")
			}
			at, err := c.open()
			if err != nil {
				return err
			}
			return at.PutImageQuota(cmd.Context(), name, bytes.Value())
		},
	}
	set.Flags().BoolVar(&all, "all", false, "for each repo (OWNER/NAME) that has none of its own")
	cmd.AddCommand(get, set)
	return cmd
}
