/* What any program costs that links the libraries of a tool: load, print a line,
 * end. ./run links it with exactly those the tool's ELF header names.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>

int main(void)
{
	return puts("bare") < 0;
}
