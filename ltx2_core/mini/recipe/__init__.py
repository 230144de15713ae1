"""How were the weights of the miniature made? python -m ltx2_core.mini.recipe STAGE --work FOLDER --minutes M"""
