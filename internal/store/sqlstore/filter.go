package sqlstore

import "strings"

// conditions are what a filter asks of rows, with the arguments in their order.
type conditions struct {
	all  []string
	args []any
}

// add asks for a condition, if it is set.
func (c *conditions) add(condition string, set bool, args ...any) {
	if set {
		c.all, c.args = append(c.all, condition), append(c.args, args...)
	}
}

// where returns the conditions as a clause; nothing if there are none.
func (c *conditions) where() string {
	if len(c.all) == 0 {
		return ""
	}
	return `WHERE ` + strings.Join(c.all, ` AND `)
}

// rowLimit is how many rows a filter asks for: at most 500, and 50 if it does not say.
func rowLimit(wanted int) int {
	if wanted <= 0 {
		return 50
	}
	return min(wanted, 500)
}
