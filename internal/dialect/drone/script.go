package drone

import "strings"

// The beginning of every script. The credentials are for git in commands, and nothing that commands start inherits
// them as variables.
const scriptHead = `if [ -n "${DRONE_NETRC_MACHINE:-}" ] && [ -w "${HOME:-}" ]; then
	(umask 077 && printf 'machine %s login %s password %s\n' "$DRONE_NETRC_MACHINE" "${DRONE_NETRC_USERNAME:-}" "${DRONE_NETRC_PASSWORD:-}" > "$HOME/.netrc")
fi
unset DRONE_NETRC_MACHINE DRONE_NETRC_USERNAME DRONE_NETRC_PASSWORD
set -e
`

// script makes of commands what /bin/sh reads on its standard input: each command after a line that shows it.
func script(commands []string) string {
	var b strings.Builder
	b.WriteString(scriptHead)
	for _, command := range commands {
		b.WriteString("printf '%s\\n' " + quote("+ "+strings.TrimRight(command, "\n")) + "\n")
		b.WriteString(command)
		b.WriteByte('\n')
	}
	return b.String()
}

// quote makes one word of s for the shell. Nothing in it is evaluated.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
