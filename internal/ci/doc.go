// Package ci holds Slipway's nouns as plain data: [Repo], [Event], [Run], [Job], [Step], [Image], [Secret] and [Token].
//
// It imports nothing but the standard library and has no behaviour beyond small predicates, so that every other package
// can speak of the same things. The words are those of the glossary in ARCHITECTURE.md. Start with [Event]: it is what
// everything else follows from.
package ci
