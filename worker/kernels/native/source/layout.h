/* Structures that Python fills in; bindings.py declares the same ones. The fields of a structure are listed once, in a macro
   FIELDS(FIELD) with FIELD(type, name) for each. From the list come the structure and a function that returns its layout, which
   bindings.py compares with its own when it loads the library. */
#ifndef PAGODA_LAYOUT_H
#define PAGODA_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "pool.h"

struct field_layout {
    const char *name; /* NULL at the end, whose size is that of the structure */
    int64_t offset, size;
};

#define DECLARE_FIELD(type, name) type name;
#define FIELD_LAYOUT(type, name) {#name, offsetof(shared_struct, name), sizeof(type)},

#define SHARED_STRUCT(structure, FIELDS) \
    struct structure {                   \
        FIELDS(DECLARE_FIELD)            \
    }

#define EXPORT_LAYOUT(structure, FIELDS)                                         \
    EXPORT const struct field_layout *structure##_layout(void) {                 \
        typedef struct structure shared_struct;                                  \
        static const struct field_layout layout[] = {                            \
            FIELDS(FIELD_LAYOUT){NULL, sizeof(shared_struct), sizeof(shared_struct)}, \
        };                                                                       \
        return layout;                                                           \
    }

#endif
